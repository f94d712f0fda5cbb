//! Why processes are where they are, and why some are nowhere: what was decided last about each. Knows no policy; what is decided, others
//! say (`place`, `moving`, `lost`).
//!
//! The one idea: the reason is where the process is. It goes along when the process moves, and is replaced by that for which it moved; so
//! whoever finds the process finds the reason, whatever became of the node where it began.

use super::view::{Occasion, WhyNode, WhyView};
use super::{Inner, System, ears};
use crate::node::Pid;
use abi::ids::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

/// Reasons that are kept of processes; the oldest go.
const KEPT_MAX: usize = 10_000;
/// Refused orders that are kept; the oldest go.
const REFUSED_MAX: usize = 100;
/// What a reason may take on the wire and in memory. Nodes beyond that are only counted.
const BYTES_MAX: usize = 8 << 10;

/// Why nobody can say why a process is where it is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoWhy {
    #[error("nobody decided where process {pid} is: it was begun on {node} by process {by}, which was there")]
    BegunBy { pid: Pid, node: String, by: Pid },
    #[error("nobody decided where process {pid} is: it was begun on {node} from there")]
    BegunThere { pid: Pid, node: String },
    #[error("it is not known any more why process {pid} is on {node}")]
    Forgotten { pid: Pid, node: String },
    #[error("no node that is heard knows of process {0}, nor why it was where it was")]
    NoProcess(Pid),
    #[error("nothing that is called {0} was refused a place lately; of a process say its number: una ps")]
    NotRefused(String),
}

#[derive(Default)]
pub struct Whys(Mutex<State>);

/// Invariant: `by_age` has exactly the processes of `kept`, by their stamps.
#[derive(Default)]
struct State {
    kept: BTreeMap<Pid, (u64, WhyView)>,
    by_age: BTreeMap<u64, Pid>,
    last: u64,
    /// There was no room for all.
    has_dropped: bool,
    refused: VecDeque<Refused>,
}

struct Refused {
    name: String,
    /// BLAKE3 in hexadecimal.
    program: String,
    why: WhyView,
}

impl Whys {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }

    pub fn of(&self, pid: Pid) -> Option<WhyView> {
        self.state().kept.get(&pid).map(|(_, why)| why.clone())
    }

    /// In the place of what was known before.
    pub fn keep(&self, pid: Pid, why: WhyView) {
        let mut state = self.state();
        state.last += 1;
        let stamp = state.last;
        if let Some((before, _)) = state.kept.insert(pid, (stamp, why.within_bounds())) {
            state.by_age.remove(&before);
        }
        state.by_age.insert(stamp, pid);
        if state.kept.len() > KEPT_MAX
            && let Some((_, oldest)) = state.by_age.pop_first()
        {
            state.kept.remove(&oldest);
            state.has_dropped = true;
        }
    }

    /// It is elsewhere, and so is the reason.
    pub fn forget(&self, pid: Pid) {
        let mut state = self.state();
        if let Some((stamp, _)) = state.kept.remove(&pid) {
            state.by_age.remove(&stamp);
        }
    }

    pub fn refused(&self, name: &str, program: &str, why: &WhyView) {
        let mut state = self.state();
        if state.refused.len() >= REFUSED_MAX {
            state.refused.pop_front();
        }
        let (name, program) = (name.into(), program.into());
        state.refused.push_back(Refused { name, program, why: why.clone().within_bounds() });
    }

    /// Why the last of this name, or of this program, could be placed nowhere.
    pub fn not_placed(&self, name: &str) -> Option<WhyView> {
        let state = self.state();
        let mut latest_first = state.refused.iter().rev();
        latest_first.find(|refused| refused.name == name || refused.program == name).map(|refused| refused.why.clone())
    }
}

impl WhyView {
    /// With as many nodes as have room; the chosen one comes first, and is always there.
    pub fn within_bounds(mut self) -> WhyView {
        let mut bytes = 0;
        let mut fits = |node: &WhyNode| {
            bytes += serde_json::to_vec(node).expect("plain data").len();
            bytes <= BYTES_MAX
        };
        let count = self.nodes.iter().take_while(|node| fits(node)).count();
        self.left_out += (self.nodes.len() - count) as u32;
        self.nodes.truncate(count);
        self
    }

    pub fn because(self, occasion: Occasion) -> WhyView {
        WhyView { occasion, ..self }
    }
}

impl Inner {
    /// A decision that no policy took: there, for this reason, and nowhere else was asked for.
    pub(super) fn why_there(&self, there: NodeId, reason: &str, occasion: Occasion) -> WhyView {
        let members = self.directory.members();
        let other = |node: &NodeId| WhyNode {
            number: node.0,
            name: members.get(node).map_or_else(|| node.to_string(), |member| member.name.clone()),
            chosen: *node == there,
            reason: if *node == there { reason.into() } else { "was not asked for".into() },
        };
        let nodes = std::iter::once(&there).chain(members.keys().filter(|node| **node != there)).map(other).collect();
        WhyView { nodes, ..WhyView::new(Some(there)) }.because(occasion)
    }
}

impl System {
    /// Why a process is where it is, or on no node. To be asked where it is.
    pub fn why(&self, pid: Pid) -> Result<WhyView, NoWhy> {
        let inner = &self.0;
        if let Some(why) = inner.whys.of(pid) {
            return Ok(why);
        }
        if let Some(view) = inner.node.get().and_then(|node| node.process(pid).ok()) {
            let node = inner.name_of(inner.me);
            return Err(match view.parent {
                _ if pid.node() != inner.me || inner.whys.state().has_dropped => NoWhy::Forgotten { pid, node },
                Some(by) => NoWhy::BegunBy { pid, node, by },
                None => NoWhy::BegunThere { pid, node },
            });
        }
        let born = pid.node();
        let said = match born != inner.me && inner.health.is_up(born) {
            true => inner.ask(born, &ears::Question::Why { pid }).ok(),
            false => None,
        };
        let said = said.and_then(|said| serde_json::from_slice::<Option<WhyView>>(&said).ok()?);
        said.or_else(|| self.why_on_no_node(pid)).ok_or(NoWhy::NoProcess(pid))
    }

    /// Why the last that is called so could be placed nowhere, whichever node was asked.
    pub fn why_not_placed(&self, name: &str) -> Result<WhyView, NoWhy> {
        let asked = self.0.ask_all(&ears::Question::NotPlaced { name: name.into() });
        let others =
            asked.into_iter().filter_map(|(_, said)| serde_json::from_slice::<Option<WhyView>>(&said.ok()?).ok()?);
        let all = self.0.whys.not_placed(name).into_iter().chain(others);
        all.max_by_key(|why| why.at_ms).ok_or_else(|| NoWhy::NotRefused(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::ids::ProcessId;

    fn pid(serial: u64) -> Pid {
        Pid::from(ProcessId::new(NodeId(1), serial))
    }

    fn why(node: u16) -> WhyView {
        WhyView::new(Some(NodeId(node)))
    }

    /// Not the lowest number: that may be the one that was decided about last.
    #[test]
    fn the_oldest_reason_goes() {
        let whys = Whys::default();
        (1..=KEPT_MAX as u64).for_each(|serial| whys.keep(pid(serial), why(1)));
        // It has moved just now.
        whys.keep(pid(1), why(2));
        assert!(!whys.state().has_dropped);
        whys.keep(pid(1 << 20), why(3));
        assert_eq!(whys.of(pid(1)).and_then(|why| why.chosen), Some(2));
        assert_eq!(whys.of(pid(2)), None);
        assert!(whys.of(pid(3)).is_some() && whys.of(pid(1 << 20)).is_some() && whys.state().has_dropped);
        whys.forget(pid(1));
        assert_eq!(whys.of(pid(1)), None);
        let state = whys.state();
        assert_eq!(state.kept.len(), state.by_age.len());
    }

    #[test]
    fn a_reason_has_a_bound_and_the_chosen_node_is_in_it() {
        let node = |number: u16| WhyNode {
            number,
            name: format!("node-{number}"),
            chosen: number == 7,
            reason: "could, at a cost of 400 ms against 400 ms: load 0.25 a processor with it, compiling 400 ms".into(),
        };
        let large = WhyView { nodes: std::iter::once(7).chain(100..1100).map(node).collect(), ..why(7) };
        let bounded = large.clone().within_bounds();
        assert!(serde_json::to_vec(&bounded).unwrap().len() < BYTES_MAX + 512);
        assert!(bounded.nodes[0].chosen && bounded.nodes.len() > 20);
        assert_eq!(bounded.nodes.len() + bounded.left_out as usize, large.nodes.len());
        assert_eq!(bounded.clone().within_bounds(), bounded);
    }

    #[test]
    fn what_was_refused_is_found_by_its_name_or_program_and_the_last_one_is_meant() {
        let whys = Whys::default();
        let at = |at_ms: u64| WhyView { at_ms, ..WhyView::new(None) };
        whys.refused("large", "00", &at(1));
        whys.refused("large", "11", &at(2));
        let found = |name: &str| whys.not_placed(name).map(|why| why.at_ms);
        assert_eq!((found("large"), found("00"), found("11"), found("small")), (Some(2), Some(1), Some(2), None));
        (0..REFUSED_MAX).for_each(|_| whys.refused("other", "22", &at(3)));
        assert_eq!((found("large"), found("other")), (None, Some(3)));
    }
}
