//! What this machine has and how busy it is, as Linux says. Knows `/proc`; not what una does with it.

use std::fs;

/// One look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Host {
    /// That this process may use.
    pub processors: u32,
    /// Processes of the machine that run or want to, at this moment; the one that looks is not counted.
    pub wanting: u32,
    pub memory_bytes: u64,
    /// Without pushing anything out that is in use.
    pub memory_free_bytes: u64,
}

impl Host {
    /// What cannot be read is zero.
    pub fn look() -> Host {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let load = fs::read_to_string("/proc/loadavg").ok();
        let wanting = load.and_then(|text| text.split(' ').nth(3)?.split('/').next()?.parse::<u32>().ok());
        let wanting = wanting.unwrap_or(1).saturating_sub(1);
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let (memory_bytes, memory_free_bytes) = (entry(&memory, "MemTotal"), entry(&memory, "MemAvailable"));
        Host { processors, wanting, memory_bytes, memory_free_bytes }
    }
}

/// The machine's name, as it calls itself.
pub fn name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "node".into(), |name| name.trim().into())
}

fn entry(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: Option<u64> = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_their_whole_name() {
        let text = "MemTotal:       16384 kB\nMemFree:            7 kB\nMemAvailable:   8192 kB\n";
        assert_eq!(entry(text, "MemTotal"), 16 << 20);
        assert_eq!(entry(text, "MemAvailable"), 8 << 20);
        assert_eq!(entry(text, "Mem"), 0);
    }

    #[test]
    fn this_machine_has_something() {
        let host = Host::look();
        assert!(host.processors > 0 && host.memory_bytes >= host.memory_free_bytes && host.memory_free_bytes > 0);
    }
}
