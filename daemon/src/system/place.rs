//! Where a new process goes. Gathers what the policy must know; the policy itself is `services::placement`.

use super::view::{WhyNode, WhyView, Wish};
use super::{NotForked, System, health, member};
use crate::node::{ForkOrder, Origin, Pid, PlaceHint, ProcessView};
use crate::protocol::Placement;
use abi::ids::{NodeId, ProgramId};
use services::members::Standing;
use services::placement::{self, Candidate, Hint, Order, Promised};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a process is taken to use of memory if it was not said.
const MEMORY_USUAL: u64 = 32 << 20;
/// How long is waited for what the node has that was asked for by name. Each tells it when it starts.
const SAYS_TIMEOUT: Duration = Duration::from_secs(3);
const SAYS_INTERVAL: Duration = Duration::from_millis(20);
/// After so long a node has told others of what it got.
const TOLD_AFTER: Duration = Duration::from_millis(1500);

/// Processes that were sent to nodes a moment ago, of which those have not told yet: so that not all go to the same one.
#[derive(Default)]
pub struct Recent(Mutex<VecDeque<(Instant, NodeId, u64)>>);

impl System {
    /// A node for a process, and for each node why it was or was not chosen. Without a node that can take it: the reasons.
    pub fn place(&self, name: &str, program: &str, place: &Placement) -> Result<WhyView, WhyView> {
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
            hint,
            architecture: None,
            asked_on: Some(inner.me),
            data: vec![],
        };
        if candidates.is_empty() {
            // The facts have not come yet: it runs where it was asked for.
            return Ok(WhyView { chosen: Some(inner.me.0), nodes: vec![] });
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
        let why = self.place(&view.name, &view.program, &place).map_err(|why| {
            let reasons = why.nodes.iter().map(|node| format!("{}: {}", node.name, node.reason));
            format!("no node can take it ({})", reasons.collect::<Vec<_>>().join("; "))
        })?;
        let chosen = why.chosen.map_or(self.0.me, NodeId);
        self.0.keep_why(pid, chosen, why);
        if chosen == self.0.me {
            return Ok(());
        }
        // Whom somebody has sent to a node by its name stays there when its owner is back.
        let moved = match place.wish.on {
            Some(_) => self.move_process(pid, &chosen.to_string(), &mut |_| true),
            None => self.move_where_placed(pid, chosen, &mut |_| true),
        };
        moved.map(drop).map_err(|refused| refused.to_string())
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
            let why = WhyView { chosen: Some(inner.me.0), nodes: vec![] };
            return Ok(vec![(inner.me, why); order.count as usize]);
        }
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
                architecture: None,
                // Nobody at this machine asked for clones of a guest.
                asked_on: (!inner.node.get().is_some_and(|node| node.is_guest(origin.pid))).then_some(inner.me),
                data: vec![],
            };
            let why = self.decide(&wanted, &candidates, &members, bound).map_err(NotForked::NoPlace)?;
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
    pub fn place_moved(&self, view: &ProcessView, recent: &Recent) -> Result<NodeId, WhyView> {
        let inner = &self.0;
        let members = inner.directory.members().clone();
        let mut candidates = self.candidates(&members);
        let mut recent = recent.0.lock().expect("nothing panics while it holds this lock");
        while recent.front().is_some_and(|(at, ..)| at.elapsed() > TOLD_AFTER) {
            recent.pop_front();
        }
        for candidate in &mut candidates {
            for (.., bytes) in recent.iter().filter(|(_, node, _)| *node == candidate.node) {
                candidate.promised.memory_bytes += bytes;
                candidate.promised.processes += 1;
            }
        }
        let order = Order {
            program: ProgramId(super::record::hex(&view.program).unwrap_or_default()),
            memory_bytes: view.memory_bytes,
            hint: Hint::Anywhere,
            architecture: None,
            asked_on: None,
            data: vec![],
        };
        let why = self.decide(&order, &candidates, &members, false)?;
        let node = NodeId(why.chosen.expect("a decision that chose no node is an error"));
        recent.push_back((Instant::now(), node, view.memory_bytes));
        Ok(node)
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
            Candidate { node: *node, standing, draining: member.draining, facts, promised: Promised::default() }
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
            Ok(node) => Ok(WhyView { chosen: Some(node.0), nodes }),
            Err(nowhere) => {
                let all = WhyNode { number: 0, name: "in all".into(), chosen: false, reason: nowhere.to_string() };
                nodes.push(all);
                Err(WhyView { chosen: None, nodes })
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
    WhyView { chosen: None, nodes: members.iter().map(node).collect() }
}
