//! Signs that somebody uses this machine: what Linux lets anybody see of terminals, keyboards, mice and the work of others. Knows `/proc`,
//! `/dev` and `/sys`; not what follows from a sign.
//!
//! The one idea: it is seen *that* something was typed or moved, never *what*. So nothing is opened that could be read from: times of
//! terminals, counters of interrupts and of transfers are compared with what they were at the last look. No clock is asked, so that a
//! wrong one does not matter.
//!
//! ```text
//!   terminals          when their input was read last      /dev/pts/*, /dev/tty1 ...      kept by Linux to eight seconds
//!   keyboards, mice    interrupts of the old port          /proc/interrupts, i8042
//!                      transfers over USB                  /sys/bus/usb/devices/*/urbnum
//!   work of others     time of all processors, less ours   /proc/stat, /proc/self/stat
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Linux writes down that a terminal was read at most so often.
const TERMINAL_PRECISION: Duration = Duration::from_secs(8);
/// Devices come and go seldom.
const DEVICES_INTERVAL: Duration = Duration::from_secs(5);
/// Virtual consoles that are looked at; people have fewer.
const CONSOLES_MAX: u32 = 12;
/// Terminals that are looked at.
const TERMINALS_MAX: usize = 1024;

/// Somebody did something with their hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    Terminal,
    /// A keyboard, a mouse or the like.
    Hand,
}

/// What happened since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Look {
    pub touch: Option<Touch>,
    /// Processors, in hundredths, that were busy with other processes than this one.
    pub others_hundredths: u32,
}

/// Whoever can tell.
pub trait Signs: Send {
    fn look(&mut self) -> Look;
}

/// How much of a machine can be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sources {
    pub terminals: usize,
    /// Keyboards, mice and the like that count what they do.
    pub hands: usize,
    pub work: bool,
}

/// This machine.
pub struct Machine {
    root: PathBuf,
    /// When each was read last, in seconds of the clock on the wall: compared, never counted with.
    terminals: BTreeMap<String, i64>,
    /// Somebody is at a terminal until then, as far as Linux tells.
    typed_until: Option<Instant>,
    devices: Vec<PathBuf>,
    devices_at: Option<Instant>,
    hands: BTreeMap<PathBuf, u64>,
    work: Option<Work>,
}

/// Ticks of all processors since the machine started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Work {
    all: u64,
    busy: u64,
    /// Of these, of this process.
    own: u64,
    processors: u64,
}

impl Machine {
    pub fn new() -> Machine {
        Machine::below(Path::new("/"))
    }

    /// The same of a machine whose `/proc`, `/dev` and `/sys` are below that directory.
    fn below(root: &Path) -> Machine {
        let mut machine = Machine {
            root: root.into(),
            terminals: BTreeMap::new(),
            typed_until: None,
            devices: vec![],
            devices_at: None,
            hands: BTreeMap::new(),
            work: None,
        };
        // What was before is no sign.
        machine.look_at(Instant::now());
        machine.typed_until = None;
        machine
    }

    pub fn sources(&self) -> Sources {
        Sources { terminals: self.terminals.len(), hands: self.hands.len(), work: self.work.is_some() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn look_at(&mut self, now: Instant) -> Look {
        let terminals = self.read_terminals();
        if terminals.iter().any(|(name, read)| self.terminals.get(name) != Some(read)) {
            self.typed_until = Some(now + TERMINAL_PRECISION);
        }
        self.terminals = terminals;
        let hands = self.read_hands(now);
        let moved = hands.iter().any(|(device, count)| self.hands.get(device) != Some(count));
        self.hands = hands;
        let touch = match self.typed_until {
            _ if moved => Some(Touch::Hand),
            Some(until) if now < until => Some(Touch::Terminal),
            _ => None,
        };
        let work = work(&self.read("proc/stat"), &self.read("proc/self/stat"));
        let others_hundredths = match (self.work, work) {
            (Some(before), Some(after)) => others(before, after),
            _ => 0,
        };
        self.work = work;
        Look { touch, others_hundredths }
    }

    fn read_terminals(&self) -> BTreeMap<String, i64> {
        let mut terminals = BTreeMap::new();
        let mut note = |name: String, path: &Path| {
            if let Ok(stat) = fs::metadata(path) {
                terminals.insert(name, stat.atime());
            }
        };
        let pseudo = fs::read_dir(self.path("dev/pts")).into_iter().flatten().flatten();
        for entry in pseudo.take(TERMINALS_MAX) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.bytes().all(|byte| byte.is_ascii_digit()) {
                note(format!("pts/{name}"), &entry.path());
            }
        }
        for number in 1..=CONSOLES_MAX {
            let name = format!("tty{number}");
            note(name.clone(), &self.path("dev").join(&name));
        }
        terminals
    }

    fn read_hands(&mut self, now: Instant) -> BTreeMap<PathBuf, u64> {
        if self.devices_at.is_none_or(|at| now.saturating_duration_since(at) >= DEVICES_INTERVAL) {
            self.devices_at = Some(now);
            self.devices = usb_hands(&self.path("sys/bus/usb/devices"));
        }
        let count = |path: &PathBuf| Some((path.clone(), fs::read_to_string(path).ok()?.trim().parse().ok()?));
        let mut hands: BTreeMap<PathBuf, u64> = self.devices.iter().filter_map(count).collect();
        if let Some(count) = old_port(&self.read("proc/interrupts")) {
            hands.insert("i8042".into(), count);
        }
        hands
    }
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::new()
    }
}

impl Signs for Machine {
    fn look(&mut self) -> Look {
        self.look_at(Instant::now())
    }
}

/// What counts the transfers of each keyboard and mouse: of the device of which an interface says that it is one (class 3, protocol 1
/// or 2).
fn usb_hands(devices: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(devices).into_iter().flatten().flatten() {
        let says = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default().trim().to_string();
        let is_hand = says("bInterfaceClass") == "03" && matches!(says("bInterfaceProtocol").as_str(), "01" | "02");
        let name = entry.file_name().to_string_lossy().into_owned();
        // `1-4.2:1.0` is an interface of `1-4.2`.
        if is_hand && let Some((device, _)) = name.split_once(':') {
            found.push(devices.join(device).join("urbnum"));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Interrupts of the port of old keyboards and mice, which those of many portable machines still are.
fn old_port(interrupts: &str) -> Option<u64> {
    let lines = interrupts.lines().filter(|line| line.trim_end().ends_with("i8042"));
    let count =
        |line: &str| -> u64 { line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum() };
    let counts: Vec<u64> = lines.map(count).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

fn work(all: &str, own: &str) -> Option<Work> {
    let first = all.lines().next()?.strip_prefix("cpu ")?;
    let columns: Vec<u64> = first.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // What guests of a virtual machine use is in the first two as well.
    let [user, nice, system, idle, waits, hard, soft, stolen, ..] = columns[..] else { return None };
    let busy = user + nice + system + hard + soft;
    let is_processor =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    // The name of the process is in brackets, and may have anything in it.
    let (_, rest) = own.rsplit_once(") ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let ticks = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let own = ticks(11)? + ticks(12)?;
    let processors = all.lines().filter(is_processor).count().max(1) as u64;
    Some(Work { all: busy + idle + waits + stolen, busy, own, processors })
}

/// Hundredths of processors that others were busy with between two looks.
fn others(before: Work, after: Work) -> u32 {
    // Both are counted by different clocks of Linux, which are a tick apart now and then.
    let own = after.own.saturating_sub(before.own);
    let busy = after.busy.saturating_sub(before.busy).saturating_sub(own);
    let all = after.all.saturating_sub(before.all).max(1);
    (busy * 100 * after.processors / all).min(after.processors * 100) as u32
}

/// An owner who is played, in a file: `touch N` with another N is a hand, `busy N` are hundredths of processors. What cannot be read is
/// nothing.
pub struct Played {
    path: PathBuf,
    touched: Option<u64>,
}

/// Names the file of an owner who is played.
pub const PLAYED: &str = "UNA_OWNER";

impl Played {
    pub fn new(path: PathBuf) -> Played {
        let mut played = Played { path, touched: None };
        // What was before is no sign, as of a machine.
        played.look();
        played
    }
}

impl Signs for Played {
    fn look(&mut self) -> Look {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let says = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|rest| rest.trim().parse::<u64>().ok())
        };
        let touched = says("touch");
        let touch = (touched.is_some() && touched != self.touched).then_some(Touch::Hand);
        self.touched = touched.or(self.touched);
        Look { touch, others_hundredths: says("busy").unwrap_or(0).min(u32::MAX.into()) as u32 }
    }
}

/// The owner of this machine, or who plays them.
pub fn of_machine() -> Box<dyn Signs> {
    match std::env::var_os(PLAYED) {
        Some(path) => Box::new(Played::new(path.into())),
        None => Box::new(Machine::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::time::SystemTime;

    /// A machine of files.
    struct Stage {
        directory: tempfile::TempDir,
        now: Instant,
    }

    impl Stage {
        fn new() -> Stage {
            let stage = Stage { directory: tempfile::tempdir().unwrap(), now: Instant::now() };
            stage.terminal("pts/0", 100);
            stage.work(1000, 100, 10);
            stage
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn terminal(&self, name: &str, read_s: u64) {
            let path = self.write(&format!("dev/{name}"), "");
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(read_s);
            File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_accessed(at)).unwrap();
        }

        fn work(&self, idle: u64, busy: u64, own: u64) {
            self.write("proc/stat", &format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5\n"));
            self.write("proc/self/stat", &format!("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 {own} 0 0 0 20 0\n"));
        }

        fn keyboard(&self, transfers: u64) {
            let interface = "sys/bus/usb/devices/1-4.2:1.0";
            self.write(&format!("{interface}/bInterfaceClass"), "03\n");
            self.write(&format!("{interface}/bInterfaceProtocol"), "01\n");
            self.write("sys/bus/usb/devices/1-4.2/urbnum", &format!("{transfers}\n"));
        }

        fn machine(&self) -> Machine {
            Machine::below(self.directory.path())
        }
    }

    #[test]
    fn a_terminal_that_is_read_is_somebody_for_as_long_as_linux_does_not_tell_more() {
        let stage = Stage::new();
        let mut machine = stage.machine();
        assert_eq!(machine.look_at(stage.now).touch, None, "what was before is no sign");
        // Whatever the clock on the wall says, also backwards.
        let seconds = |seconds| stage.now + Duration::from_secs(seconds);
        for (at, read) in [(0, 108), (10, 60)] {
            stage.terminal("pts/0", read);
            assert_eq!(machine.look_at(seconds(at)).touch, Some(Touch::Terminal));
            assert_eq!(machine.look_at(seconds(at + 7)).touch, Some(Touch::Terminal));
            assert_eq!(machine.look_at(seconds(at + 8)).touch, None);
        }
        fs::remove_file(stage.directory.path().join("dev/pts/0")).unwrap();
        assert_eq!(machine.look_at(seconds(20)).touch, None, "whoever leaves is gone");
        stage.terminal("tty3", 1);
        assert_eq!(machine.look_at(seconds(21)).touch, Some(Touch::Terminal), "whoever comes is there");
        assert_eq!(machine.sources(), Sources { terminals: 1, hands: 0, work: true });
    }

    #[test]
    fn keyboards_and_mice_are_counted() {
        let stage = Stage::new();
        stage.keyboard(7);
        let interrupts = |count| format!("     CPU0 CPU1\n 1:  {count} 4  IO-APIC 1-edge  i8042\n 9: 1 1 acpi\n");
        stage.write("proc/interrupts", &interrupts(5));
        let mut machine = stage.machine();
        assert_eq!(machine.sources().hands, 2);
        assert_eq!(machine.look_at(stage.now).touch, None);
        stage.keyboard(8);
        assert_eq!(machine.look_at(stage.now).touch, Some(Touch::Hand));
        assert_eq!(machine.look_at(stage.now).touch, None);
        stage.write("proc/interrupts", &interrupts(6));
        assert_eq!(machine.look_at(stage.now).touch, Some(Touch::Hand));
    }

    #[test]
    fn work_of_others_is_what_is_not_ours() {
        let stage = Stage::new();
        let mut machine = stage.machine();
        // Of 200 ticks of two processors, 150 were busy, 100 of them with this process: a quarter of the machine.
        stage.work(1050, 250, 110);
        assert_eq!(machine.look_at(stage.now).others_hundredths, 50);
        stage.work(1150, 350, 210);
        assert_eq!(machine.look_at(stage.now).others_hundredths, 0);
        // Ours may be a tick ahead.
        stage.work(1250, 350, 211);
        assert_eq!(machine.look_at(stage.now).others_hundredths, 0);
        for damage in ["", "cpu 1 2", "cpu  x"] {
            stage.write("proc/stat", damage);
            assert_eq!(machine.look_at(stage.now), Look::default(), "{damage}");
        }
    }

    #[test]
    fn an_owner_can_be_played() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("owner");
        let mut played = Played::new(path.clone());
        assert_eq!(played.look(), Look::default());
        fs::write(&path, "touch 1\n").unwrap();
        assert_eq!(played.look().touch, Some(Touch::Hand));
        assert_eq!(played.look().touch, None);
        fs::write(&path, "touch 1\nbusy 150\n").unwrap();
        assert_eq!(played.look(), Look { touch: None, others_hundredths: 150 });
    }

    #[test]
    fn this_machine_says_how_busy_it_is() {
        assert!(Machine::new().sources().work);
    }
}
