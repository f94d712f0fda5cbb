//! What others see of a node: its processes and how they are, what can be asked of them and why it may be refused. Plain data.

use abi::ids::{NodeId, ProcessId, SERIAL_BITS};
use abi::limits::Limits;
use engine::TraceFrame;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A process, as people name it: the number that it got where it was born, behind the number of that node: `3.57` is the process 57 of
/// the node 3. Of the first node people say the number alone: on a system of one machine a process is just `57`.
///
/// For other programs it is a number where it is one for people, else text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pid(ProcessId);

impl Pid {
    /// A process of the first node, or of the only one.
    pub fn new(serial: u64) -> Pid {
        Pid(ProcessId::new(FIRST_NODE, serial))
    }

    pub fn serial(self) -> u64 {
        self.0.serial()
    }

    pub fn id(self) -> ProcessId {
        self.0
    }

    /// Where it was born.
    pub fn node(self) -> NodeId {
        self.0.born()
    }
}

/// The node that began the system.
pub const FIRST_NODE: NodeId = NodeId(1);

impl From<ProcessId> for Pid {
    fn from(id: ProcessId) -> Pid {
        Pid(id)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.born() {
            FIRST_NODE => f.pad(&self.0.serial().to_string()),
            node => f.pad(&format!("{}.{}", node.0, self.0.serial())),
        }
    }
}

/// Why something is not the number of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the number of a process is like 57, or like 3.57 for one that was born on node 3")]
pub struct NotPid;

impl FromStr for Pid {
    type Err = NotPid;

    fn from_str(text: &str) -> Result<Pid, NotPid> {
        let (node, serial) = match text.split_once('.') {
            Some((node, serial)) => (node.trim_start_matches('n').parse().map_err(|_| NotPid)?, serial),
            None => (FIRST_NODE.0, text),
        };
        let digits = serial.bytes().all(|byte| byte.is_ascii_digit());
        match serial.parse() {
            Ok(serial) if digits && node > 0 && serial < 1 << SERIAL_BITS => {
                Ok(Pid(ProcessId::new(NodeId(node), serial)))
            }
            _ => Err(NotPid),
        }
    }
}

impl Serialize for Pid {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.node() {
            FIRST_NODE => to.serialize_u64(self.0.serial()),
            _ => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Pid {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pid, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        let text = match Form::deserialize(from)? {
            Form::Number(serial) => serial.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A process as `ps` and `top` show it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessView {
    pub pid: Pid,
    /// The number of the node that it is on.
    pub node: u16,
    pub parent: Option<Pid>,
    pub name: String,
    pub args: Vec<String>,
    /// BLAKE3 of the program in hexadecimal; for a part of the system, its name.
    pub program: String,
    pub kind: Kind,
    pub state: State,
    /// Milliseconds since 1970.
    pub started_ms: u64,
    /// Processor time it used.
    pub cpu_ns: u64,
    /// All of its memories and tables, touched or not.
    pub memory_bytes: u64,
    pub handles: u32,
    /// Written to its standard output and error.
    pub output_bytes: u64,
    pub mounts: Vec<MountOrder>,
    /// How often it was begun, the first time not counted.
    #[serde(default)]
    pub incarnation: u32,
    #[serde(default)]
    pub lineage: Lineage,
    #[serde(default)]
    pub stay: Stay,
}

/// What a process is to the owner of the machine that it is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stay {
    /// Somebody wanted it on this machine: they sat at it, or named it.
    #[default]
    Wanted,
    /// The system put it there.
    Guest,
    /// A guest that is stopped until the owner has gone.
    Paused,
}

/// What a process is to its clones, or as one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// It is a clone of that one.
    pub from: Option<Pid>,
    /// Who it is since the last fork that it was part of: a clone, from 1 on, or the one that was forked, 0.
    pub number: u32,
    /// What came of it when it was forked last.
    pub clones: Vec<Pid>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Program,
    /// A part of the system.
    Service,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Starting,
    Ready,
    Running,
    Waiting(Waits),
    /// `una stop` keeps it from running.
    Stopped,
    /// Its node is lost, and none has taken it up yet.
    Lost,
    Ended(End),
}

/// What a process waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waits {
    /// Time, or its streams.
    Sleep,
    Receive,
    Send,
    Call,
    Child,
    Pipe,
    /// Another node's kernel.
    Node,
}

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    Exited(u32),
    Killed,
    /// With its parent.
    Orphaned,
    /// It broke a rule: why, and where, innermost function first.
    Failed {
        reason: String,
        backtrace: Vec<String>,
    },
    NotStarted(String),
    /// It used all the processor time that it may.
    CpuLimit,
    /// It is in an image now.
    Frozen,
}

impl End {
    pub(crate) fn failed(reason: impl fmt::Display, backtrace: &[TraceFrame]) -> End {
        End::Failed { reason: reason.to_string(), backtrace: backtrace.iter().map(TraceFrame::to_string).collect() }
    }
}

/// A program to run.
pub struct Order {
    pub program: engine::Program,
    pub name: String,
    /// The program's name first.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<MountOrder>,
    pub limits: ProcessLimits,
    pub stdio: Stdio,
}

/// A program to continue, beside its image.
pub struct ThawOrder {
    pub program: engine::Program,
    pub name: String,
    /// Must name every place where the program had one.
    pub mounts: Vec<MountOrder>,
    pub limits: ProcessLimits,
    pub stdio: Stdio,
}

/// A directory of this machine in a program's tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MountOrder {
    pub host: PathBuf,
    pub guest: String,
    pub read_only: bool,
}

/// What one process may use. Whatever is not said is what any process may.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Of all its memories and tables. Beyond, memory does not grow.
    pub memory_bytes: Option<u64>,
    /// Its share of the processor against others'; 100 is usual.
    pub cpu_weight: Option<u32>,
    /// Processor time in all. Then it ends.
    pub cpu_total: Option<Duration>,
    /// To standard output and error together. Then writing fails.
    pub output_bytes: Option<u64>,
    /// Handles to objects of the kernel; and descriptors. Then nothing more is made, received or opened.
    #[serde(default)]
    pub handles: Option<u32>,
    /// Of the buffers of its ports and pipes together. Then no more of them are made.
    #[serde(default)]
    pub mailbox_bytes: Option<u64>,
}

/// The most that can be said of handles. Each process has one from the beginning, to the names.
pub const HANDLES_MAX: u32 = 65_535;
/// The most that can be said of the buffers of ports and pipes.
pub const MAILBOX_BYTES_MAX: u64 = 4 << 30;

impl ProcessLimits {
    /// What the kernel holds the process to.
    pub(crate) fn of_kernel(&self) -> Result<Limits, RunRefused> {
        let handles_max = self.handles.unwrap_or(Limits::NORMAL.handles_max);
        let buffer_bytes_max = self.mailbox_bytes.unwrap_or(Limits::NORMAL.buffer_bytes_max);
        if !(1..=HANDLES_MAX).contains(&handles_max) {
            return Err(RunRefused::Handles(handles_max));
        }
        if buffer_bytes_max > MAILBOX_BYTES_MAX {
            return Err(RunRefused::Mailbox(buffer_bytes_max));
        }
        Ok(Limits { children_max: 1024, handles_max, buffer_bytes_max, ..Limits::NORMAL })
    }

    /// What is left for a process that has used so much.
    pub(crate) fn left(&self, cpu: Duration, output_bytes: u64) -> ProcessLimits {
        ProcessLimits {
            cpu_total: self.cpu_total.map(|total| total.saturating_sub(cpu)),
            output_bytes: self.output_bytes.map(|total| total.saturating_sub(output_bytes)),
            ..self.clone()
        }
    }

    /// What is not said here is as it is there.
    pub(crate) fn or(self, other: ProcessLimits) -> ProcessLimits {
        ProcessLimits {
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            cpu_weight: self.cpu_weight.or(other.cpu_weight),
            cpu_total: self.cpu_total.or(other.cpu_total),
            output_bytes: self.output_bytes.or(other.output_bytes),
            handles: self.handles.or(other.handles),
            mailbox_bytes: self.mailbox_bytes.or(other.mailbox_bytes),
        }
    }
}

/// What a process's standard streams are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stdio {
    /// Somebody will write to its standard input; else it is at its end from the beginning.
    pub input: bool,
    /// A person sits there.
    pub input_is_terminal: bool,
    pub output_is_terminal: bool,
    /// Output is not forgotten before the first reader has it: the process waits when nobody reads.
    pub lossless: bool,
    /// Output is shown when what led to it is safe, as somebody says; files are changed when it is.
    #[serde(default)]
    pub held: bool,
    /// By which the files know such a process, wherever it lives.
    #[serde(default)]
    pub session: u64,
}

/// The node as a whole.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    pub processors: u32,
    pub workers: u32,
    /// Processes that could run and wait for a processor.
    pub ready: u32,
    pub running: u32,
    pub processes: u32,
    /// All processor time that processes used since the node started.
    pub cpu_ns: u64,
    pub uptime_ms: u64,
    /// Linear memory of all processes.
    pub memory_bytes: u64,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot use {}: {error}", path.display())]
    Directory { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    #[error("the tree of files cannot be used: {0}")]
    Tree(#[from] crate::files::TreeError),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    #[error("the journal of the service `names` is damaged: what had been acknowledged is not there any more")]
    Damaged,
    #[error("the system's services did not start")]
    Boot,
}

/// Why a program is not run.
#[derive(Debug, thiserror::Error)]
pub enum RunRefused {
    #[error("{} cannot be mounted at {}: {error}", mount.host.display(), mount.guest)]
    Mount { mount: MountOrder, error: std::io::Error },
    #[error(transparent)]
    Start(#[from] engine::StartError),
    #[error(transparent)]
    Thaw(#[from] engine::ThawError),
    #[error("the node has no room for another process ({0})")]
    Limit(String),
    #[error("a process has from 1 to {HANDLES_MAX} handles, not {0}: say so many with --handles, or nothing")]
    Handles(u32),
    #[error("the ports and pipes of a process hold at most {MAILBOX_BYTES_MAX} bytes, not {0}: say so with --mailbox")]
    Mailbox(u64),
    #[error("the image says of the process's limits what cannot be read")]
    Limits,
    #[error("process {0} is living")]
    Alive(Pid),
    #[error("what its streams held cannot be read")]
    Streams,
    #[error("the program cannot be durable: {0}")]
    NotDurable(String),
    #[error("the node is stopping")]
    Stopping,
}

/// Why nothing was done to a process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlRefused {
    #[error("there is no process {0}")]
    NoSuchProcess(Pid),
    #[error("process {0} has ended")]
    Ended(Pid),
    #[error("process {0} is a part of the system")]
    Service(Pid),
    /// It is there, and can be asked for there.
    #[error("process {pid} has moved to {to}")]
    Moved { pid: Pid, to: NodeId },
    #[error("the node is stopping")]
    Stopping,
}

/// Why a process was not frozen. It runs on.
#[derive(Debug, thiserror::Error)]
pub enum FreezeRefused {
    #[error(transparent)]
    Control(#[from] ControlRefused),
    #[error("process {0} is being frozen already")]
    Twice(Pid),
    #[error("process {pid} has {what}, which cannot be in an image yet")]
    Holds { pid: Pid, what: String },
    #[error("process {0} did not stop in time: it may be in a long call of the system")]
    Late(Pid),
    #[error("the memory of process {pid} has not all come to this node: {why}")]
    Partial { pid: Pid, why: String },
    #[error(transparent)]
    Save(#[from] engine::SaveError),
}

/// Why a process was not moved. It runs on where it is.
#[derive(Debug, thiserror::Error)]
pub enum DepartRefused {
    #[error(transparent)]
    Stop(#[from] FreezeRefused),
    #[error("process {pid} uses {} of this machine: without --mount it could move", host.display())]
    Bound { pid: Pid, host: PathBuf },
    #[error("process {pid} writes where {with} writes, and goes where that goes: una move {with}")]
    Shared { pid: Pid, with: Pid },
    #[error(
        "process {0} is looked after by its node (--restart, --durable), and stays there until that is lost or ends it"
    )]
    LookedAfter(Pid),
    #[error("process {0} has asked another node for something, and that does not answer in time")]
    Busy(Pid),
    #[error("the kernel cannot let process {pid} go: {why}")]
    Kernel { pid: Pid, why: String },
}

/// Why nothing was sent or received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("`{0}` is not the name of a port: letters, digits, `-`, `_` and `.`, at most 255")]
    Name(String),
    #[error("there is no port `{0}`")]
    Unknown(String),
    #[error("`{0}` is a name of something else")]
    NotAPort(String),
    #[error("somebody receives from `{0}` already")]
    Taken(String),
    #[error(
        "the system cannot decide anything now, so nobody can be found or received from as `{0}` who was not before: una status"
    )]
    Undecided(String),
    #[error("`{0}` is on a node that is not heard")]
    Unreachable(String),
    #[error("whether it arrived is not known: the node of `{0}` was not heard in time")]
    InDoubt(String),
    #[error("the time is up")]
    Expired,
    #[error("nobody receives from it any more")]
    Closed,
    #[error("a message has at most {max} bytes, this one {bytes}")]
    TooLong { bytes: usize, max: usize },
    #[error("the system refused: {0}")]
    System(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_what_is_left_and_what_is_said_anew() {
        let limits = ProcessLimits {
            memory_bytes: Some(1 << 20),
            cpu_total: Some(Duration::from_secs(5)),
            output_bytes: Some(1000),
            handles: Some(8),
            ..ProcessLimits::default()
        };
        let left = limits.left(Duration::from_secs(2), 400);
        assert_eq!((left.cpu_total, left.output_bytes), (Some(Duration::from_secs(3)), Some(600)));
        assert_eq!((left.memory_bytes, left.handles, left.mailbox_bytes), (Some(1 << 20), Some(8), None));
        let none = limits.left(Duration::from_secs(9), 4000);
        assert_eq!((none.cpu_total, none.output_bytes), (Some(Duration::ZERO), Some(0)));
        let anew = ProcessLimits { handles: Some(9), mailbox_bytes: Some(1), ..ProcessLimits::default() };
        assert_eq!(anew.or(left.clone()), ProcessLimits { handles: Some(9), mailbox_bytes: Some(1), ..left });
    }

    #[test]
    fn limits_that_no_process_can_have_are_refused() {
        let said = |handles, mailbox_bytes| ProcessLimits { handles, mailbox_bytes, ..ProcessLimits::default() };
        let of_kernel = said(Some(HANDLES_MAX), Some(MAILBOX_BYTES_MAX)).of_kernel().unwrap();
        assert_eq!((of_kernel.handles_max, of_kernel.buffer_bytes_max), (HANDLES_MAX, MAILBOX_BYTES_MAX));
        for wrong in [said(Some(0), None), said(Some(HANDLES_MAX + 1), None)] {
            assert!(matches!(wrong.of_kernel(), Err(RunRefused::Handles(_))));
        }
        assert!(matches!(said(None, Some(MAILBOX_BYTES_MAX + 1)).of_kernel(), Err(RunRefused::Mailbox(_))));
    }

    #[test]
    fn pids_are_read_as_they_are_written() {
        for text in ["57", "2.57", "65535.281474976710655"] {
            assert_eq!(text.parse::<Pid>().unwrap().to_string(), text);
        }
        assert_eq!("1.57".parse(), Ok(Pid::new(57)));
        assert_eq!("n3.57".parse::<Pid>().unwrap().node(), NodeId(3));
        for text in ["", "x", "-1", "+1", "0.5", "1.", ".1", "1.2.3", "70000.1", "1.281474976710656"] {
            assert_eq!(text.parse::<Pid>(), Err(NotPid), "{text}");
        }
    }
}
