//! What `una top` knows and what is chosen in it: samples of the node, the order of the list, the filter, the question that is open.
//! Knows neither the daemon nor a screen: samples and keys come in, an [`Action`] comes out.

use daemon::node::{Kind, NodeView, Pid, ProcessView, State};
use daemon::system::view::NodeLine;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How many shares of the processor are remembered for the history.
const HISTORY_MAX: usize = 120;

/// How long a word about what was done stays.
const WORD_STAYS: Duration = Duration::from_secs(5);

/// One look at the node.
pub struct Sample {
    pub at: Instant,
    pub version: String,
    pub node: NodeView,
    /// Of the whole system.
    pub processes: Vec<ProcessView>,
    /// Bytes that the machine has.
    pub machine_memory: u64,
    /// All nodes of the system as this one sees them; this is one of them.
    pub nodes: Vec<NodeLine>,
    pub me: u16,
}

impl Sample {
    pub fn is_of_many(&self) -> bool {
        self.nodes.len() > 1
    }

    /// Of all nodes that are heard.
    pub fn processors(&self) -> u32 {
        let heard = self.nodes.iter().filter_map(|line| line.facts.as_ref());
        heard.map(|facts| facts.processors).sum::<u32>().max(self.node.processors.into())
    }

    /// Bytes that are used, and that there are: by una on a node alone, else by all programs of all nodes that are heard.
    pub fn memory(&self) -> (u64, u64) {
        if !self.is_of_many() {
            return (self.node.memory_bytes, self.machine_memory);
        }
        let heard = self.nodes.iter().filter_map(|line| line.facts.as_ref());
        heard.fold((0, 0), |(used, all), facts| {
            (used + facts.memory_bytes.saturating_sub(facts.memory_free_bytes), all + facts.memory_bytes)
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    Letter(char),
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Enter,
    Escape,
    Backspace,
    Interrupt,
}

/// What is to be done about a key outside of here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    None,
    Leave,
    /// Take a sample at once.
    Look,
    Kill(Pid),
    Stop(Pid),
    Cont(Pid),
    /// To the node of this name or number.
    Move(Pid, String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Cpu,
    Memory,
    Pid,
    Name,
    Started,
}

/// What keys mean at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mode {
    List,
    /// The filter is being typed.
    Filter,
    /// Shall this process be killed?
    AskKill(Pid, String),
    /// To which node shall this process go? What has been typed of the answer.
    AskMove {
        pid: Pid,
        name: String,
        to: String,
    },
    /// The output of a process; how many lines it is scrolled back from its end.
    Output {
        pid: Pid,
        name: String,
        text: String,
        back: usize,
    },
    Help,
}

/// A process and its share of the processor since the last look: 1.0 is one processor.
pub struct Row {
    pub view: ProcessView,
    pub share: f64,
}

/// Invariants: `rows` are filtered and ordered; `selected` is the place of `chosen` in them if it is there, and in range if there are any.
pub struct Model {
    pub sample: Option<Sample>,
    pub rows: Vec<Row>,
    /// Share of all processors that processes used, the newest last.
    pub history: VecDeque<f64>,
    pub order: Order,
    pub reversed: bool,
    pub filter: String,
    pub mode: Mode,
    pub all: bool,
    pub selected: usize,
    /// The process that the selection follows when the list is ordered anew.
    chosen: Option<Pid>,
    shares: BTreeMap<Pid, f64>,
    /// How many rows fit on the screen.
    pub page: usize,
    pub lost: bool,
    word: Option<(String, Instant)>,
}

impl Model {
    pub fn new() -> Model {
        Model {
            sample: None,
            rows: vec![],
            history: VecDeque::new(),
            order: Order::Cpu,
            reversed: false,
            filter: String::new(),
            mode: Mode::List,
            all: false,
            selected: 0,
            chosen: None,
            shares: BTreeMap::new(),
            page: 10,
            lost: false,
            word: None,
        }
    }

    /// Takes a look at the node into account.
    pub fn take(&mut self, sample: Sample) {
        self.lost = false;
        self.shares.clear();
        if let Some(before) = &self.sample {
            let elapsed_ns = sample.at.duration_since(before.at).as_nanos().max(1) as f64;
            let known: BTreeMap<Pid, u64> = before.processes.iter().map(|view| (view.pid, view.cpu_ns)).collect();
            for view in &sample.processes {
                // A process that is new has used all of its time since the last look.
                let used = view.cpu_ns.saturating_sub(known.get(&view.pid).copied().unwrap_or(0));
                self.shares.insert(view.pid, used as f64 / elapsed_ns);
            }
            // The node's sum knows of those that ended meanwhile, the processes' own of slices that are not over yet.
            let ended = sample.node.cpu_ns.saturating_sub(before.node.cpu_ns) as f64 / elapsed_ns;
            let used = self.shares.values().sum::<f64>().max(ended);
            self.history.push_back((used / f64::from(sample.processors().max(1))).min(1.0));
            if self.history.len() > HISTORY_MAX {
                self.history.pop_front();
            }
        }
        self.sample = Some(sample);
        self.arrange();
    }

    /// The daemon is not there.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Says something in the last line, for a while.
    pub fn say(&mut self, word: String) {
        self.word = Some((word, Instant::now()));
    }

    pub fn word(&self) -> Option<&str> {
        self.word.as_ref().filter(|(_, at)| at.elapsed() < WORD_STAYS).map(|(word, _)| word.as_str())
    }

    /// Share of all processors since the last look.
    pub fn load(&self) -> f64 {
        self.history.back().copied().unwrap_or(0.0)
    }

    /// The process whose output is looked at.
    pub fn output_of(&self) -> Option<Pid> {
        match &self.mode {
            Mode::Output { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    pub fn show_output(&mut self, output: String) {
        if let Mode::Output { text, .. } = &mut self.mode {
            *text = output;
        }
    }

    fn arrange(&mut self) {
        let Some(sample) = &self.sample else { return };
        let wanted = self.filter.to_lowercase();
        let matches = |view: &ProcessView| {
            let mut words = std::iter::once(&view.name).chain(&view.args);
            wanted.is_empty()
                || view.pid.to_string() == wanted
                || words.any(|word| word.to_lowercase().contains(&wanted))
        };
        let shown = |view: &&ProcessView| {
            (self.all || (view.kind == Kind::Program && !matches!(view.state, State::Ended(_)))) && matches(view)
        };
        let row =
            |view: &ProcessView| Row { share: self.shares.get(&view.pid).copied().unwrap_or(0.0), view: view.clone() };
        let mut rows: Vec<Row> = sample.processes.iter().filter(shown).map(row).collect();
        // By number first: what is equal otherwise keeps its place from look to look.
        rows.sort_by_key(|row| row.view.pid);
        match self.order {
            Order::Cpu => {
                // To the tenth of a percent that is shown, so that lines do not dance for what cannot be seen.
                rows.sort_by_key(|row| Reverse(((row.share * 1000.0).round() as u64, row.view.cpu_ns / 10_000_000)));
            }
            Order::Memory => rows.sort_by_key(|row| Reverse(row.view.memory_bytes)),
            Order::Pid => {}
            Order::Name => rows.sort_by(|a, b| a.view.name.cmp(&b.view.name)),
            Order::Started => rows.sort_by_key(|row| Reverse(row.view.started_ms)),
        }
        if self.reversed {
            rows.reverse();
        }
        self.rows = rows;
        let place = self.chosen.and_then(|pid| self.rows.iter().position(|row| row.view.pid == pid));
        self.selected = place.unwrap_or(self.selected.min(self.rows.len().saturating_sub(1)));
        self.chosen = place.and(self.chosen);
    }

    fn select(&mut self, place: usize) {
        self.selected = place.min(self.rows.len().saturating_sub(1));
        self.chosen = self.rows.get(self.selected).map(|row| row.view.pid);
    }

    fn sort(&mut self, order: Order) {
        self.order = order;
        self.reversed = false;
        self.arrange();
    }

    pub fn press(&mut self, key: Key) -> Action {
        if key == Key::Interrupt {
            return Action::Leave;
        }
        match &mut self.mode {
            Mode::List => return self.press_in_list(key),
            Mode::Help => self.mode = Mode::List,
            Mode::AskKill(pid, _) => {
                let pid = *pid;
                self.mode = Mode::List;
                if key == Key::Letter('y') {
                    return Action::Kill(pid);
                }
                self.say("not killed".into());
            }
            Mode::AskMove { pid, to, .. } => match key {
                Key::Letter(letter) => to.push(letter),
                Key::Backspace => {
                    to.pop();
                }
                Key::Enter if !to.is_empty() => {
                    let action = Action::Move(*pid, std::mem::take(to));
                    self.mode = Mode::List;
                    return action;
                }
                Key::Escape | Key::Enter => self.mode = Mode::List,
                _ => {}
            },
            Mode::Filter => {
                match key {
                    Key::Letter(letter) => self.filter.push(letter),
                    Key::Backspace => {
                        self.filter.pop();
                    }
                    Key::Escape => {
                        self.filter.clear();
                        self.mode = Mode::List;
                    }
                    Key::Enter => self.mode = Mode::List,
                    _ => {}
                }
                self.arrange();
            }
            Mode::Output { text, back, .. } => {
                let (page, lines) = (self.page, text.lines().count());
                match key {
                    Key::Escape | Key::Letter('q') | Key::Enter => self.mode = Mode::List,
                    Key::Up => *back = (*back + 1).min(lines),
                    Key::Down => *back = back.saturating_sub(1),
                    Key::PageUp => *back = (*back + page).min(lines),
                    Key::PageDown => *back = back.saturating_sub(page),
                    Key::First => *back = lines,
                    Key::Last => *back = 0,
                    _ => {}
                }
            }
        }
        Action::None
    }

    fn press_in_list(&mut self, key: Key) -> Action {
        let chosen = self.rows.get(self.selected).map(|row| &row.view);
        match (key, chosen) {
            (Key::Letter('q') | Key::Escape, _) if key == Key::Letter('q') || self.filter.is_empty() => {
                return Action::Leave;
            }
            (Key::Escape, _) => {
                self.filter.clear();
                self.arrange();
            }
            (Key::Up, _) => self.select(self.selected.saturating_sub(1)),
            (Key::Down, _) => self.select(self.selected + 1),
            (Key::PageUp, _) => self.select(self.selected.saturating_sub(self.page)),
            (Key::PageDown, _) => self.select(self.selected + self.page),
            (Key::First, _) => self.select(0),
            (Key::Last, _) => self.select(usize::MAX),
            (Key::Letter('c'), _) => self.sort(Order::Cpu),
            (Key::Letter('m'), _) => self.sort(Order::Memory),
            (Key::Letter('p'), _) => self.sort(Order::Pid),
            (Key::Letter('n'), _) => self.sort(Order::Name),
            (Key::Letter('u'), _) => self.sort(Order::Started),
            (Key::Letter('r'), _) => {
                self.reversed = !self.reversed;
                self.arrange();
            }
            (Key::Letter('a'), _) => {
                self.all = !self.all;
                self.arrange();
            }
            (Key::Letter('/'), _) => self.mode = Mode::Filter,
            (Key::Letter('?' | 'h'), _) => self.mode = Mode::Help,
            (Key::Letter('k'), Some(view)) => self.mode = Mode::AskKill(view.pid, view.name.clone()),
            (Key::Letter('v'), Some(view)) => {
                if self.sample.as_ref().is_some_and(Sample::is_of_many) {
                    self.mode = Mode::AskMove { pid: view.pid, name: view.name.clone(), to: String::new() };
                } else {
                    self.say("there is no other node; una ticket prints how a machine joins".into());
                }
            }
            (Key::Letter('s'), Some(view)) => {
                return match view.state {
                    State::Stopped => Action::Cont(view.pid),
                    _ => Action::Stop(view.pid),
                };
            }
            (Key::Enter, Some(view)) => {
                let (pid, name) = (view.pid, view.name.clone());
                self.mode = Mode::Output { pid, name, text: String::new(), back: 0 };
                return Action::Look;
            }
            _ => {}
        }
        Action::None
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use daemon::node::Waits;
    use daemon::system::view::{Facts, Lends, NodeState, Role};

    pub fn process(pid: u64, name: &str, cpu_ns: u64, memory_bytes: u64, state: State) -> ProcessView {
        ProcessView {
            pid: Pid::new(pid),
            node: 1,
            parent: None,
            name: name.into(),
            args: vec![format!("{name}.wasm"), "--of".into(), pid.to_string()],
            program: "00".into(),
            kind: Kind::Program,
            state,
            started_ms: 1_000_000 + pid,
            cpu_ns,
            memory_bytes,
            handles: 4,
            output_bytes: 0,
            mounts: vec![],
            incarnation: 0,
            lineage: Default::default(),
            stay: Default::default(),
        }
    }

    pub fn sample(at: Instant, cpu_ns: u64, processes: Vec<ProcessView>) -> Sample {
        let node = NodeView {
            processors: 2,
            workers: 2,
            ready: 1,
            running: 2,
            processes: processes.len() as u32,
            cpu_ns,
            uptime_ms: 3_725_000,
            memory_bytes: 300 << 20,
        };
        Sample { at, version: "0.1.0".into(), node, processes, machine_memory: 4 << 30, nodes: vec![], me: 1 }
    }

    /// A node that has two processors, of which so many are busy.
    fn line(number: u16, state: NodeState, load: f64) -> NodeLine {
        let facts = Facts {
            architecture: "x86_64".into(),
            processors: 2,
            load,
            memory_bytes: 8 << 30,
            memory_free_bytes: 2 << 30,
            processes: 3,
            life: 1,
            lends: Default::default(),
        };
        NodeLine {
            number,
            name: format!("box{number}"),
            key: String::new(),
            state,
            role: Role::Voter,
            draining: false,
            addresses: vec![],
            round_trip_us: (number != 1).then_some(430),
            facts: (state == NodeState::Up).then_some(facts),
        }
    }

    /// The same on three nodes, of which one is gone.
    pub fn of_many() -> Model {
        let mut model = model();
        let mut last = model.sample.take().unwrap();
        last.nodes = vec![line(1, NodeState::Up, 1.5), line(2, NodeState::Up, 0.2), line(3, NodeState::Down, 0.0)];
        last.nodes[1].facts.as_mut().unwrap().lends = Lends::OwnerHere;
        last.processes[0].node = 2;
        model.take(last);
        model
    }

    /// Two looks, one second apart.
    pub fn model() -> Model {
        let second = 1_000_000_000;
        let start = Instant::now();
        let processes = |used: u64| {
            vec![
                process(12, "crawler", 9 * second, 40 << 20, State::Waiting(Waits::Sleep)),
                process(13, "raytracer", 3 * second + used, 10 << 20, State::Running),
                process(14, "python", second + used / 2, 200 << 20, State::Stopped),
                process(9, "old", second, 1, State::Ended(daemon::node::End::Exited(3))),
            ]
        };
        let mut model = Model::new();
        model.take(sample(start, 10 * second, processes(0)));
        model.take(sample(start + Duration::from_secs(1), 11 * second + second / 2, processes(second)));
        model
    }

    fn names(model: &Model) -> Vec<&str> {
        model.rows.iter().map(|row| row.view.name.as_str()).collect()
    }

    #[test]
    fn shares_are_what_was_used_between_two_looks() {
        let model = model();
        assert_eq!(names(&model), ["raytracer", "python", "crawler"]);
        assert_eq!(model.rows.iter().map(|row| row.share).collect::<Vec<_>>(), [1.0, 0.5, 0.0]);
        assert_eq!(model.load(), 0.75);
    }

    #[test]
    fn orders_and_filters() {
        let mut model = model();
        let mut after = |key: Key| {
            model.press(key);
            names(&model).join(" ")
        };
        assert_eq!(after(Key::Letter('m')), "python crawler raytracer");
        assert_eq!(after(Key::Letter('r')), "raytracer crawler python");
        assert_eq!(after(Key::Letter('n')), "crawler python raytracer");
        assert_eq!(after(Key::Letter('u')), "python raytracer crawler");
        assert_eq!(after(Key::Letter('p')), "crawler raytracer python");
        assert_eq!(after(Key::Letter('a')), "old crawler raytracer python");
        after(Key::Letter('a'));
        after(Key::Letter('/'));
        // Letters are the filter's now, not orders.
        assert_eq!(after(Key::Letter('R')), "crawler raytracer");
        assert_eq!(after(Key::Letter('a')), "crawler raytracer");
        assert_eq!(after(Key::Letter('y')), "raytracer");
        assert_eq!(after(Key::Escape), "crawler raytracer python");
    }

    /// A process is killed only if its question was answered with yes, and it is the one that was asked about.
    #[test]
    fn killing_asks_first() {
        let mut model = model();
        model.press(Key::Down);
        assert_eq!(model.press(Key::Letter('k')), Action::None);
        assert_eq!(model.mode, Mode::AskKill(Pid::new(14), "python".into()));
        assert_eq!(model.press(Key::Enter), Action::None);
        assert_eq!(model.mode, Mode::List);
        model.press(Key::Letter('k'));
        // The list is ordered anew while the question is open.
        model.order = Order::Pid;
        model.arrange();
        assert_eq!(model.press(Key::Letter('y')), Action::Kill(Pid::new(14)));
    }

    #[test]
    fn a_process_goes_where_it_is_typed() {
        let mut alone = model();
        assert_eq!(alone.press(Key::Letter('v')), Action::None);
        assert_eq!(alone.mode, Mode::List, "there is nowhere to go");
        let mut model = of_many();
        let chosen = model.rows[0].view.pid;
        for key in [Key::Letter('v'), Key::Enter, Key::Letter('v'), Key::Letter('q'), Key::Backspace] {
            assert_eq!(model.press(key), Action::None);
        }
        for letter in "box2".chars() {
            model.press(Key::Letter(letter));
        }
        assert_eq!(model.press(Key::Enter), Action::Move(chosen, "box2".into()));
        assert_eq!(model.mode, Mode::List);
        model.press(Key::Letter('v'));
        assert_eq!(model.press(Key::Escape), Action::None);
        assert_eq!(model.mode, Mode::List);
    }

    #[test]
    fn many_nodes_are_summed_up() {
        let sample = of_many().sample.unwrap();
        assert_eq!((sample.processors(), sample.memory()), (4, (12 << 30, 16 << 30)));
        let alone = model().sample.unwrap();
        assert_eq!((alone.processors(), alone.memory()), (2, (300 << 20, 4 << 30)));
    }

    #[test]
    fn the_selection_follows_its_process() {
        let mut model = model();
        model.press(Key::Last);
        assert_eq!((model.selected, model.rows[model.selected].view.pid), (2, Pid::new(12)));
        model.press(Key::Letter('p'));
        assert_eq!((model.selected, model.rows[model.selected].view.pid), (0, Pid::new(12)));
        model.press(Key::Down);
        assert_eq!(model.press(Key::Letter('s')), Action::Stop(Pid::new(13)));
        model.press(Key::Down);
        assert_eq!(model.press(Key::Letter('s')), Action::Cont(Pid::new(14)));
        let at = model.sample.as_ref().unwrap().at + Duration::from_secs(1);
        model.take(sample(at, 0, vec![]));
        assert_eq!((model.rows.len(), model.selected), (0, 0));
        assert_eq!(model.press(Key::Letter('k')), Action::None);
        assert_eq!(model.mode, Mode::List);
    }

    #[test]
    fn output_is_looked_at_and_left() {
        let mut model = model();
        assert_eq!(model.press(Key::Enter), Action::Look);
        assert_eq!(model.output_of(), Some(Pid::new(13)));
        model.show_output("a\nb\nc\n".into());
        model.press(Key::First);
        assert!(matches!(model.mode, Mode::Output { back: 3, .. }));
        model.press(Key::Escape);
        assert_eq!(model.mode, Mode::List);
        assert_eq!(model.press(Key::Escape), Action::Leave);
    }
}
