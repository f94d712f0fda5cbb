//! Where a process goes that begins, has to leave, or has lost its node. Gathers what the policy must know; the policy itself is
//! `services::placement`.

use super::moving::ChosenBy;
use super::view::{WhyNode, WhyView, Wish};
use super::{NotForked, System, health, member};
use crate::files::{KeepAsk, KeepTold, PATH_BYTES_MAX, PATHS_MAX};
use crate::keep::record::{Claim, Supervision};
use crate::node::{ForkOrder, Origin, Pid, PlaceHint, ProcessView};
use crate::protocol::Placement;
use abi::ids::{NodeId, ProgramId};
use services::members::{Intake, Standing};
use services::placement::{self, Against, Candidate, Data, Hint, Order, Promised};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a process is taken to use of memory if it was not said.
const MEMORY_USUAL: u64 = 32 << 20;
/// How long is waited for what the node has that was asked for by name. Each tells it when it starts.
const SAYS_TIMEOUT: Duration = Duration::from_secs(3);
const SAYS_INTERVAL: Duration = Duration::from_millis(20);
/// After so long a node has told others of what it got.
const TOLD_AFTER: Duration = Duration::from_millis(1500);

/// How long it is waited for where files are. Without an answer they do not count.
const DATA_PATIENCE: Duration = Duration::from_millis(300);

/// Processes that were sent to nodes a moment ago, of which those have not told yet: so that not all go to the same one.
#[derive(Default)]
pub struct Recent(Mutex<VecDeque<(Instant, NodeId, u64)>>);

impl Recent {
    /// Decides with what was sent to these nodes and is not told of yet; one at a time, so that each counts those before it.
    fn decide(
        &self, memory_bytes: u64, candidates: &mut [Candidate],
        decide: impl FnOnce(&mut [Candidate]) -> Result<WhyView, WhyView>,
    ) -> Result<WhyView, WhyView> {
        let mut recent = self.0.lock().expect("nothing panics while it holds this lock");
        while recent.front().is_some_and(|(at, ..)| at.elapsed() > TOLD_AFTER) {
            recent.pop_front();
        }
        for candidate in &mut *candidates {
            for (.., bytes) in recent.iter().filter(|(_, node, _)| *node == candidate.node) {
                candidate.promised.memory_bytes += bytes;
                candidate.promised.processes += 1;
            }
        }
        let why = decide(candidates)?;
        recent.extend(why.chosen.map(|node| (Instant::now(), NodeId(node), memory_bytes)));
        Ok(why)
    }
}

impl System {
    /// A node for a process, and for each node why it was or was not chosen. Without a node that can take it: the reasons, which can be
    /// asked for later.
    pub fn place(&self, name: &str, program: &str, args: &[String], place: &Placement) -> Result<WhyView, WhyView> {
        let placed = self.place_new(name, program, args, place);
        placed.inspect_err(|why| self.0.whys.refused(name, program, why))
    }

    fn place_new(&self, name: &str, program: &str, args: &[String], place: &Placement) -> Result<WhyView, WhyView> {
        let inner = &self.0;
        let members = inner.directory.members().clone();
        let wish = &place.wish;
        // Directories of a machine are mounted where they are.
        let bound = !place.mounts.is_empty();
        let hint = match (&wish.on, wish.near) {
            (Some(named), _) => match member::find(&members, named) {
                Some(node) if bound && node != inner.me => {
                    return Err(nowhere(
                        &members,
                        "its directories are mounted from the machine that it is started on",
                    ));
                }
                Some(node) => Hint::On(node),
                None => return Err(nowhere(&members, &format!("there is no node `{named}`"))),
            },
            (None, _) if bound => Hint::On(inner.me),
            (None, Some(pid)) => Hint::Near { process: pid.id(), node: self.locate(pid).unwrap_or_else(|| pid.node()) },
            (None, None) if wish.spread => Hint::Spread(self.count_named(name)),
            (None, None) => Hint::Anywhere,
        };
        if let Hint::On(node) = hint {
            self.wait_until_it_says(node);
        }
        let candidates = self.candidates(&members);
        let order = Order {
            program: ProgramId(super::record::hex(program).unwrap_or_default()),
            memory_bytes: place.limits.memory_bytes.unwrap_or(MEMORY_USUAL),
            data: if matches!(hint, Hint::On(_)) { Data::default() } else { self.data_of(args, &candidates) },
            hint,
            asked_on: Some(inner.me),
        };
        if candidates.is_empty() {
            // The facts have not come yet: it runs where it was asked for.
            return Ok(WhyView::new(Some(inner.me)));
        }
        self.decide(&order, &candidates, &members, bound)
    }

    /// Takes a process that just began here to where it is to be.
    pub fn take_to(&self, pid: Pid, hint: PlaceHint) -> Result<(), String> {
        let node = self.0.node.get().ok_or("the node is only starting")?;
        let view = node.process(pid).map_err(|error| error.to_string())?;
        let wish = match hint {
            PlaceHint::On(named) => Wish { on: Some(named), ..Wish::default() },
            PlaceHint::Near(pid) => Wish { near: Some(pid), ..Wish::default() },
            PlaceHint::Spread => Wish { spread: true, ..Wish::default() },
        };
        let place = Placement {
            mounts: vec![],
            limits: Default::default(),
            stdio: Default::default(),
            follow: None,
            wish,
            decided: None,
        };
        let why = self.place(&view.name, &view.program, &view.args, &place).map_err(|why| {
            let reasons = why.nodes.iter().map(|node| format!("{}: {}", node.name, node.reason));
            format!("no node can take it ({})", reasons.collect::<Vec<_>>().join("; "))
        })?;
        let chosen = why.chosen.map_or(self.0.me, NodeId);
        self.0.placed(pid, chosen, &why);
        if chosen == self.0.me {
            self.0.whys.keep(pid, why);
            return Ok(());
        }
        // Whom somebody has sent to a node by its name stays there when its owner is back.
        let by = if place.wish.on.is_some() { ChosenBy::Person } else { ChosenBy::System };
        self.move_chosen(pid, chosen, (by, why), &mut |_| true).map(drop).map_err(|refused| refused.to_string())
    }

    /// A node for each clone of a process: where it is itself and where others of them are is the last choice.
    pub fn place_clones(&self, origin: &Origin, order: &ForkOrder) -> Result<Vec<(NodeId, WhyView)>, NotForked> {
        let inner = &self.0;
        let members = inner.directory.members().clone();
        let bound = !origin.mounts.is_empty();
        let on = match &order.on {
            Some(named) => Some(member::find(&members, named).ok_or_else(|| NotForked::NoNode(named.clone()))?),
            None => bound.then_some(inner.me),
        };
        if let Some(mount) = origin.mounts.first()
            && on != Some(inner.me)
        {
            return Err(NotForked::Bound { pid: origin.pid, host: mount.host.clone() });
        }
        let mut candidates = self.candidates(&members);
        if candidates.is_empty() {
            return Ok(vec![(inner.me, WhyView::new(Some(inner.me))); order.count as usize]);
        }
        let data = self.data_of(&origin.args, &candidates);
        let mut counts = BTreeMap::from([(inner.me, 1)]);
        let mut places = vec![];
        for _ in 0..order.count {
            let hint = match on {
                Some(node) => Hint::On(node),
                None => Hint::Spread(counts.iter().map(|(node, count)| (*node, *count)).collect()),
            };
            let wanted = Order {
                program: ProgramId(super::record::hex(&origin.program).unwrap_or_default()),
                memory_bytes: origin.memory_bytes,
                hint,
                // Nobody at this machine asked for clones of a guest.
                asked_on: (!inner.node.get().is_some_and(|node| node.is_guest(origin.pid))).then_some(inner.me),
                data: data.clone(),
            };
            let why = self.decide(&wanted, &candidates, &members, bound).map_err(|why| {
                inner.whys.refused(&origin.name, &origin.program, &why);
                NotForked::NoPlace(why)
            })?;
            let node = NodeId(why.chosen.expect("a decision that chose no node is an error"));
            *counts.entry(node).or_insert(0) += 1;
            if let Some(candidate) = candidates.iter_mut().find(|candidate| candidate.node == node) {
                candidate.promised.memory_bytes += origin.memory_bytes;
                candidate.promised.processes += 1;
            }
            places.push((node, why));
        }
        Ok(places)
    }

    /// A node for a process that has to leave this one. Without one: the reasons.
    pub fn place_moved(&self, view: &ProcessView, recent: &Recent) -> Result<(NodeId, WhyView), WhyView> {
        let inner = &self.0;
        let members = inner.directory.members().clone();
        let mut candidates = self.candidates(&members);
        let data = self.data_of(&view.args, &candidates);
        let order = Order {
            program: ProgramId(super::record::hex(&view.program).unwrap_or_default()),
            memory_bytes: view.memory_bytes,
            hint: Hint::Anywhere,
            asked_on: None,
            data,
        };
        let decide = |candidates: &mut [Candidate]| self.decide(&order, candidates, &members, false);
        let why = recent.decide(view.memory_bytes, &mut candidates, decide)?;
        Ok((NodeId(why.chosen.expect("a decision that chose no node is an error")), why))
    }

    /// A node for a process that is looked after and has lost its node. `tried`: they were asked to take it up, and have not. Nobody is
    /// asked for this: what is known here must do.
    pub fn place_lost(
        &self, claim: &Claim, lost: NodeId, tried: &BTreeSet<NodeId>, recent: &Recent,
    ) -> Result<WhyView, WhyView> {
        let inner = &self.0;
        let members = inner.directory.members().clone();
        let Some(Supervision { begin, .. }) = &claim.supervision else { return Err(WhyView::new(None)) };
        let process = &begin.process;
        if !process.mounts.is_empty() {
            let mut why = nowhere(&members, &format!("its directories are on {}", inner.name_of(lost)));
            for node in why.nodes.iter_mut().filter(|node| node.number == lost.0) {
                node.reason = "has its directories and has lost it: it takes it up when it starts again".into();
            }
            return Err(why);
        }
        let mut candidates = self.candidates(&members);
        for candidate in &mut candidates {
            let node = candidate.node;
            // Whoever lost it and is there again takes up its own; this one does so by being asked.
            if node == lost && lost != inner.me {
                candidate.against = Some(Against::LostIt);
            } else if tried.contains(&node) {
                candidate.against = Some(Against::DidNotTakeIt);
            }
            if candidate.standing.is_up() && !inner.may_be_asked(node) {
                candidate.standing = Standing::Down;
            }
        }
        let order = Order {
            program: ProgramId(super::record::hex(&process.program).unwrap_or_default()),
            memory_bytes: process.limits.memory_bytes.unwrap_or(MEMORY_USUAL),
            hint: Hint::Anywhere,
            asked_on: None,
            // Else whoever holds the files would have to be asked, which may be the very node that is lost.
            data: if inner.files.is_holder() { self.data_of(&process.args, &candidates) } else { Data::default() },
        };
        recent.decide(order.memory_bytes, &mut candidates, |candidates| {
            self.decide(&order, candidates, &members, false).or_else(|why| {
                // A machine whose owner is at it takes it if no other does.
                let facts = candidates.iter_mut().filter_map(|candidate| candidate.facts.as_mut());
                facts
                    .filter(|facts| facts.intake == Intake::OwnerPresent)
                    .for_each(|facts| facts.intake = Intake::Open);
                self.decide(&order, candidates, &members, false).map_err(|_| why)
            })
        })
    }

    /// The files that a process is expected to read: those of the tree that its arguments name. Where nobody else could take it, or nobody
    /// says where they are in time, they do not count.
    fn data_of(&self, args: &[String], candidates: &[Candidate]) -> Data {
        let up = candidates.iter().filter(|candidate| candidate.standing.is_up());
        let paths = paths_in(args);
        if up.count() < 2 || paths.is_empty() {
            return Data::default();
        }
        match self.0.files.keep(&KeepAsk::Locate { paths }, Instant::now() + DATA_PATIENCE) {
            Ok(KeepTold::Located { bytes, at }) => Data { bytes, at },
            _ => Data::default(),
        }
    }

    /// A node that has just started, or this one, may not have heard what the other has.
    fn wait_until_it_says(&self, node: NodeId) {
        let health = &self.0.health;
        let says_nothing = || match health.standing(node) {
            Standing::Unknown => true,
            standing => standing.is_up() && health.soft(node).is_none(),
        };
        let deadline = Instant::now() + SAYS_TIMEOUT;
        while node != self.0.me && says_nothing() && Instant::now() < deadline && !self.0.is_stopping() {
            std::thread::sleep(SAYS_INTERVAL);
        }
    }

    fn candidates(&self, members: &member::Members) -> Vec<Candidate> {
        let inner = &self.0;
        let candidate = |(node, member): (&NodeId, &member::Member)| {
            let (standing, facts) = match *node == inner.me {
                true => (Standing::Alive, Some(health::soft_facts(inner))),
                false => (inner.health.standing(*node), inner.health.soft(*node).map(|(_, facts)| facts)),
            };
            let (draining, promised) = (member.draining, Promised::default());
            Candidate { node: *node, standing, draining, facts, promised, against: None }
        };
        members.iter().map(candidate).collect()
    }

    fn decide(
        &self, order: &Order, candidates: &[Candidate], members: &member::Members, bound: bool,
    ) -> Result<WhyView, WhyView> {
        let decision = placement::place(order, candidates);
        let chosen = decision.chosen.as_ref().ok().copied();
        let name_of = |node: &NodeId| members.get(node).map_or_else(|| node.to_string(), |member| member.name.clone());
        let mut nodes: Vec<WhyNode> = decision
            .verdicts
            .iter()
            .map(|(node, verdict)| WhyNode {
                number: node.0,
                name: name_of(node),
                chosen: Some(*node) == chosen,
                reason: match bound && Some(*node) == chosen {
                    true => "its directories are mounted from here".into(),
                    false => verdict.to_string(),
                },
            })
            .collect();
        match decision.chosen {
            Ok(node) => Ok(WhyView { nodes, ..WhyView::new(Some(node)) }),
            Err(nowhere) => {
                let all = WhyNode { number: 0, name: "in all".into(), chosen: false, reason: nowhere.to_string() };
                nodes.push(all);
                Err(WhyView { nodes, ..WhyView::new(None) })
            }
        }
    }

    /// How many processes of this name are on which node.
    fn count_named(&self, name: &str) -> Vec<(NodeId, u32)> {
        let mut counts = std::collections::BTreeMap::new();
        for view in self.processes(false).into_iter().flatten().flatten().filter(|view| view.name == name) {
            *counts.entry(NodeId(view.node)).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }
}

/// The same reason for all.
fn nowhere(members: &member::Members, reason: &str) -> WhyView {
    let node = |(number, member): (&NodeId, &member::Member)| WhyNode {
        number: number.0,
        name: member.name.clone(),
        chosen: false,
        reason: reason.into(),
    };
    WhyView { nodes: members.iter().map(node).collect(), ..WhyView::new(None) }
}

/// The arguments that may name files of the tree: words, and what stands behind the `=` of an option. The first is the program itself.
fn paths_in(args: &[String]) -> Vec<String> {
    let words = args.iter().skip(1).filter_map(|word| match word.strip_prefix('-') {
        None => Some(word.as_str()),
        Some(option) => option.split_once('=').map(|(_, value)| value),
    });
    let paths = words.map(|word| word.trim_start_matches('/')).filter(|path| !path.is_empty());
    paths.filter(|path| path.len() <= PATH_BYTES_MAX).take(PATHS_MAX).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_may_name_files() {
        let check = |args: &[&str], expected: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
            assert_eq!(paths_in(&args), expected);
        };
        check(&[], &[]);
        check(&["/prog"], &[]);
        check(&["prog", "/data/a", "b/c", "-v", "--in=/x", "-o=y", "--", "", "/"], &["data/a", "b/c", "x", "y"]);
        let long = "a".repeat(PATH_BYTES_MAX + 1);
        check(&["prog", &long, "short"], &["short"]);
        let many = [&["prog"][..], &["a"; PATHS_MAX + 1]].concat();
        check(&many, &["a"; PATHS_MAX]);
    }
}
