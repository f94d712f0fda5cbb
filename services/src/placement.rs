//! Where a process goes. It knows no network: what members say of themselves comes in, a decision and its reasons come out.
//!
//! The one idea: every node is either *ruled out*, for a reason that says what would have to be different, or it *could*, at a cost in
//! milliseconds that the process is expected to lose there. The cheapest wins; and the sum with its parts is what `una why` prints, so
//! the explanation is the computation and cannot differ from it.
//!
//! ```text
//!   cost = waiting for the processor + compiling + fetching data + distance to whom it talks to + crowding what is to be spread
//! ```

use crate::members::{EngineHash, Facts, Intake, Profile, ProgramMark, Standing};
use abi::ids::{NodeId, ProcessId, ProgramId};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What one more process that wants a whole processor costs the others and itself: every other process's turn, over the second that is
/// looked at.
const SHARED_PROCESSOR_MS: u64 = 1_000;
/// Compiling a program that nobody here has: what a program of a few megabytes takes.
const COMPILE_MS: u64 = 400;
/// Loading what is compiled on another node with the same engine.
const FETCH_CODE_MS: u64 = 20;
/// A mebibyte over the network.
const DATA_MS_PER_16_MIB: u64 = 150;
/// Each message to whom it talks to crosses the network: what a talkative process loses.
const APART_MS: u64 = 600;
/// For each process of the same group that is there already, when they are to be spread: more than a busy processor.
const CROWDED_MS: u64 = 5_000;
/// A workstation's own user comes first; where else is room, there is better.
const WORKSTATION_MS: u64 = 50;
/// Memory that is left to the node itself and to what grows there: a sixteenth.
const RESERVE_PART: u64 = 16;

/// What is to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    pub program: ProgramId,
    /// What it is expected to use.
    pub memory_bytes: u64,
    pub hint: Hint,
    /// From which node it was asked for. All else being equal, it stays there. Nothing: nobody asked, it has to leave where it is.
    pub asked_on: Option<NodeId>,
    pub data: Data,
}

/// The files that it is expected to read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Data {
    pub bytes: u64,
    /// How much of that each node has on its disk. There are copies, so the sum may be more than `bytes`.
    pub at: Vec<(NodeId, u64)>,
}

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hint {
    Anywhere,
    /// There or nowhere.
    On(NodeId),
    /// Where this process is, if there is room.
    Near {
        process: ProcessId,
        node: NodeId,
    },
    /// Away from the others of its group; how many of them are on which node.
    Spread(Vec<(NodeId, u32)>),
}

/// A node that could be chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub node: NodeId,
    pub standing: Standing,
    /// The coordinator says that it is being emptied; its own word may come later.
    pub draining: bool,
    /// None if it has not said anything of itself yet.
    pub facts: Option<Facts>,
    /// Memory and processors promised to processes that were placed there since its facts were made.
    pub promised: Promised,
    /// What whoever asks knows against it.
    pub against: Option<Against>,
}

/// Why whoever asks does not want a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// The process was there when it was lost.
    LostIt,
    /// It was asked to take the process up, and did not.
    DidNotTakeIt,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Promised {
    pub memory_bytes: u64,
    pub processes: u32,
}

/// What was decided, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub chosen: Result<NodeId, Nowhere>,
    /// Each node with its verdict: the chosen one first, then those that could, the cheapest first, then those that cannot, by number.
    pub verdicts: Vec<(NodeId, Verdict)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It wins, at this cost; what spoke for it over the next best, if there was another.
    Chosen {
        cost: Cost,
        over: Option<Over>,
    },
    /// It could, and would have cost more.
    Dearer {
        cost: Cost,
        than: u64,
    },
    Ruled(RuledOut),
}

/// The part of the cost that made the difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    pub node: NodeId,
    pub part: Part,
    pub here: u64,
    pub there: u64,
}

/// Why a node cannot have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuledOut {
    NotAskedFor {
        asked: NodeId,
    },
    Down,
    NeverHeardOf,
    SaysNothing,
    Draining,
    Leaving,
    OwnerPresent,
    /// Free, less what it keeps back and what was promised meanwhile.
    NoRoom {
        wanted: u64,
        free: u64,
        whole: u64,
    },
    Against(Against),
}

/// Why it can run nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Nowhere {
    /// There is no such node.
    NoSuchNode(NodeId),
    /// The one that was asked for cannot.
    AskedFor(NodeId),
    /// Not even an empty machine of this system is large enough.
    TooLarge { wanted: u64, largest: u64 },
    /// It would fit if so much memory became free on the node where the least is missing.
    NoRoomNow { node: NodeId, missing: u64 },
    /// Every node is ruled out for other reasons.
    NobodyTakes,
}

/// Parts of a cost, in the order in which they are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    Load,
    Compile,
    Data,
    Distance,
    Crowd,
    Profile,
}

/// What the process is expected to lose there, in milliseconds, and what that follows from.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cost {
    /// Processes that want a processor, per processor, in hundredths: what `load_ms` follows from.
    pub load_hundredths: u64,
    pub load_ms: u64,
    pub compile_ms: u64,
    /// Of its data, what is on other nodes only: what `data_ms` follows from.
    pub absent_bytes: u64,
    pub data_ms: u64,
    pub distance_ms: u64,
    pub crowd_ms: u64,
    pub profile_ms: u64,
}

impl Cost {
    pub fn total_ms(&self) -> u64 {
        self.load_ms + self.compile_ms + self.data_ms + self.distance_ms + self.crowd_ms + self.profile_ms
    }

    fn parts(&self) -> [(Part, u64); 6] {
        [
            (Part::Load, self.load_ms),
            (Part::Compile, self.compile_ms),
            (Part::Data, self.data_ms),
            (Part::Distance, self.distance_ms),
            (Part::Crowd, self.crowd_ms),
            (Part::Profile, self.profile_ms),
        ]
    }
}

/// Decides. The same input gives the same decision, whatever the order of the candidates.
pub fn place(order: &Order, candidates: &[Candidate]) -> Decision {
    let engines = engines_with(order, candidates);
    let mut able: Vec<(u64, bool, NodeId, Cost)> = Vec::new();
    let mut ruled: Vec<(NodeId, RuledOut)> = Vec::new();
    for candidate in candidates {
        match weigh(order, candidate, &engines) {
            Ok(cost) => able.push((cost.total_ms(), Some(candidate.node) != order.asked_on, candidate.node, cost)),
            Err(reason) => ruled.push((candidate.node, reason)),
        }
    }
    able.sort_unstable_by_key(|(total, elsewhere, node, _)| (*total, *elsewhere, *node));
    ruled.sort_unstable_by_key(|(node, _)| *node);
    let chosen = match able.first() {
        Some((_, _, node, _)) => Ok(*node),
        None => Err(nowhere(order, candidates, &ruled)),
    };
    let next = able.get(1).copied();
    let least = able.first().map_or(0, |(total, ..)| *total);
    let verdict = |(at, (_, _, node, cost)): (usize, &(u64, bool, NodeId, Cost))| {
        let verdict = match at {
            0 => Verdict::Chosen { cost: *cost, over: next.and_then(|next| what_decided(cost, &next.3, next.2)) },
            _ => Verdict::Dearer { cost: *cost, than: least },
        };
        (*node, verdict)
    };
    let mut verdicts: Vec<(NodeId, Verdict)> = able.iter().enumerate().map(verdict).collect();
    verdicts.extend(ruled.into_iter().map(|(node, reason)| (node, Verdict::Ruled(reason))));
    Decision { chosen, verdicts }
}

/// On which kinds of engine the program is compiled somewhere.
fn engines_with(order: &Order, candidates: &[Candidate]) -> Vec<EngineHash> {
    let mark = ProgramMark::from(&order.program);
    let up = candidates.iter().filter(|candidate| candidate.standing.is_up());
    let facts = up.filter_map(|candidate| candidate.facts.as_ref());
    facts.filter(|facts| facts.programs.contains(&mark)).map(|facts| facts.engine).collect()
}

/// Of the free memory of a machine, what processes may have.
pub fn room(memory_free_bytes: u64, memory_bytes: u64) -> u64 {
    memory_free_bytes.saturating_sub(memory_bytes / RESERVE_PART)
}

fn weigh(order: &Order, candidate: &Candidate, engines: &[EngineHash]) -> Result<Cost, RuledOut> {
    let node = candidate.node;
    if let Hint::On(asked) = order.hint
        && asked != node
    {
        return Err(RuledOut::NotAskedFor { asked });
    }
    match candidate.standing {
        Standing::Unknown => return Err(RuledOut::NeverHeardOf),
        Standing::Down => return Err(RuledOut::Down),
        Standing::Left => return Err(RuledOut::Leaving),
        Standing::Alive | Standing::Suspect => {}
    }
    if let Some(against) = candidate.against {
        return Err(RuledOut::Against(against));
    }
    if candidate.draining {
        return Err(RuledOut::Draining);
    }
    let Some(facts) = &candidate.facts else { return Err(RuledOut::SaysNothing) };
    match facts.intake {
        Intake::Open => {}
        // Who sits at it may use it, and so may who names it.
        Intake::OwnerPresent if Some(node) == order.asked_on || order.hint == Hint::On(node) => {}
        Intake::OwnerPresent => return Err(RuledOut::OwnerPresent),
        Intake::Draining => return Err(RuledOut::Draining),
        Intake::Leaving => return Err(RuledOut::Leaving),
    }
    let free = room(facts.memory_free_bytes, facts.memory_bytes).saturating_sub(candidate.promised.memory_bytes);
    if order.memory_bytes > free {
        return Err(RuledOut::NoRoom { wanted: order.memory_bytes, free, whole: facts.memory_bytes });
    }
    // With the process itself: up to one for each processor nobody waits.
    let wanting = u64::from(facts.load_hundredths) + 100 * u64::from(candidate.promised.processes) + 100;
    let load_hundredths = wanting / u64::from(facts.processors.max(1));
    let mark = ProgramMark::from(&order.program);
    let compile_ms = if facts.programs.contains(&mark) {
        0
    } else if engines.contains(&facts.engine) {
        FETCH_CODE_MS
    } else {
        COMPILE_MS
    };
    let has = order.data.at.iter().find(|(holder, _)| *holder == node).map_or(0, |(_, bytes)| *bytes);
    let absent_bytes = order.data.bytes.saturating_sub(has);
    let here = |nodes: &[(NodeId, u32)]| -> u32 {
        nodes.iter().filter(|(other, _)| *other == node).map(|(_, count)| *count).sum()
    };
    Ok(Cost {
        load_hundredths,
        load_ms: SHARED_PROCESSOR_MS * load_hundredths.saturating_sub(100) / 100,
        compile_ms,
        absent_bytes,
        data_ms: DATA_MS_PER_16_MIB * (absent_bytes >> 20) / 16,
        distance_ms: match order.hint {
            Hint::Near { node: near, .. } if near != node => APART_MS,
            _ => 0,
        },
        crowd_ms: match &order.hint {
            Hint::Spread(group) => CROWDED_MS * u64::from(here(group)),
            _ => 0,
        },
        profile_ms: match facts.profile {
            Profile::Workstation if Some(node) != order.asked_on => WORKSTATION_MS,
            _ => 0,
        },
    })
}

/// Where the chosen one saves most over the next.
fn what_decided(here: &Cost, there: &Cost, node: NodeId) -> Option<Over> {
    let parts = here.parts().into_iter().zip(there.parts());
    let saved = parts.filter(|((_, here), (_, there))| here < there);
    let ((part, here), (_, there)) =
        saved.max_by_key(|((part, here), (_, there))| (there - here, core::cmp::Reverse(*part)))?;
    Some(Over { node, part, here, there })
}

fn nowhere(order: &Order, candidates: &[Candidate], ruled: &[(NodeId, RuledOut)]) -> Nowhere {
    if let Hint::On(asked) = order.hint {
        let is_known = candidates.iter().any(|candidate| candidate.node == asked);
        return if is_known { Nowhere::AskedFor(asked) } else { Nowhere::NoSuchNode(asked) };
    }
    let full = ruled.iter().filter_map(|(node, reason)| match reason {
        RuledOut::NoRoom { wanted, free, whole } => Some((*node, *wanted, *free, whole - whole / RESERVE_PART)),
        _ => None,
    });
    let full: Vec<(NodeId, u64, u64, u64)> = full.collect();
    // On a machine that is large enough, room may come; on others it cannot.
    let could = full.iter().filter(|(_, wanted, _, whole)| wanted <= whole);
    if let Some((node, wanted, free, _)) = could.min_by_key(|(node, wanted, free, _)| (wanted - free, *node)) {
        return Nowhere::NoRoomNow { node: *node, missing: wanted - free };
    }
    match full.iter().map(|(.., whole)| *whole).max() {
        Some(largest) => Nowhere::TooLarge { wanted: order.memory_bytes, largest },
        None => Nowhere::NobodyTakes,
    }
}

// In words.

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mib = self.0.div_ceil(1 << 20);
        if mib >= 10 * 1024 { write!(f, "{} GiB", mib / 1024) } else { write!(f, "{mib} MiB") }
    }
}

struct Hundredths(u64);

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Part::Load => "load",
            Part::Compile => "compiling",
            Part::Data => "fetching data",
            Part::Distance => "distance",
            Part::Crowd => "others of its group",
            Part::Profile => "being somebody's own machine",
        })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "load {} a processor with it", Hundredths(self.load_hundredths))?;
        for (part, ms) in self.parts() {
            if ms > 0 {
                write!(f, ", {part} {ms} ms")?;
            }
            if ms > 0 && part == Part::Data {
                write!(f, " ({} are on other nodes)", Size(self.absent_bytes))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Verdict::Chosen { cost, over: None } => write!(f, "chosen: {cost}"),
            Verdict::Chosen { cost, over: Some(Over { node, part, here, there }) } => {
                write!(f, "chosen over {node} for its {part} ({here} ms against {there} ms): {cost}")
            }
            Verdict::Dearer { cost, than } => {
                write!(f, "could, at a cost of {} ms against {than} ms: {cost}", cost.total_ms())
            }
            Verdict::Ruled(reason) => reason.fmt(f),
        }
    }
}

impl fmt::Display for RuledOut {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            RuledOut::NotAskedFor { asked } => write!(f, "was not asked for: --on {asked}"),
            RuledOut::Down => f.write_str("is down"),
            RuledOut::NeverHeardOf => f.write_str("has not been heard of since this node started"),
            RuledOut::SaysNothing => f.write_str("has not said yet what it has"),
            RuledOut::Draining => f.write_str("is being emptied"),
            RuledOut::Leaving => f.write_str("said goodbye"),
            RuledOut::OwnerPresent => f.write_str("is lent only while its owner is away, who is there now"),
            RuledOut::NoRoom { wanted, free, whole } => {
                write!(f, "has no room: {} wanted, {} free of {}", Size(*wanted), Size(*free), Size(*whole))
            }
            RuledOut::Against(Against::LostIt) => f.write_str("has lost it, and takes it up when it starts again"),
            RuledOut::Against(Against::DidNotTakeIt) => {
                f.write_str("was asked to take it up and has not: una events says why")
            }
        }
    }
}

impl fmt::Display for Nowhere {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Nowhere::NoSuchNode(node) => write!(f, "there is no node {node}: `una nodes` lists them"),
            Nowhere::AskedFor(node) => write!(f, "{node} was asked for and cannot: leave out --on to run it elsewhere"),
            Nowhere::TooLarge { wanted, largest } => write!(
                f,
                "no machine of this system is large enough: {} wanted, the largest has {}; ask for less with --mem, or join a larger machine",
                Size(*wanted),
                Size(*largest)
            ),
            Nowhere::NoRoomNow { node, missing } => {
                write!(f, "no node has room: it would fit on {node} if {} more were free there", Size(*missing))
            }
            Nowhere::NobodyTakes => f.write_str("no node takes processes now"),
        }
    }
}

impl Decision {
    /// One line for each node, as `una why` prints them.
    pub fn lines(&self) -> Vec<String> {
        self.verdicts.iter().map(|(node, verdict)| alloc::format!("{node} {verdict}")).collect()
    }
}

#[cfg(test)]
mod tests;
