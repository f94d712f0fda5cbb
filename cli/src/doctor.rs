//! `una doctor`: looks at everything on this machine that una depends on, and says what to do where it is not well. Knows Linux; each
//! check is a function that measures one thing and judges it.

use crate::failure::{Result, status};
use crate::{directories, freeze, json, print};
use clap::Args;
use daemon::protocol::client::{ConnectError, Connection};
use daemon::protocol::{Reply, Request};
use drivers::presence::Sources;
use serde::Serialize;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Check what una needs of this machine
///
/// Ends with 1 if something is wrong enough that una does not work.
#[derive(Args)]
pub struct Doctor {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do about it, or what does without it.
    advice: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    /// una works, not as well as it could.
    Warn,
    /// Something of una does not work.
    Fail,
}

/// What a check found, before it has a name.
struct Finding(Verdict, String, Option<String>);

fn fine(found: impl Into<String>) -> Finding {
    Finding(Verdict::Ok, found.into(), None)
}

fn warn(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding(Verdict::Warn, found.into(), Some(advice.into()))
}

fn fail(found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding(Verdict::Fail, found.into(), Some(advice.into()))
}

type Look = fn() -> Finding;

/// In the order in which they are told: what all else rests on comes first.
const CHECKS: [(&str, Look); 14] = [
    ("kernel", kernel),
    ("processor", processor),
    ("memory", memory),
    ("clock", clock),
    ("open files", open_files),
    ("directories", own_directories),
    ("disk", disk),
    ("fsync", fsync),
    ("userfaultfd", userfaultfd),
    ("pagemap scan", pagemap_scan),
    ("fuse", fuse),
    ("cgroup", cgroup),
    ("owner", owner),
    ("daemon", daemon_runs),
];

impl Doctor {
    pub fn execute(self) -> Result<u8> {
        let check = |(name, look): (&'static str, fn() -> Finding)| {
            let Finding(verdict, found, advice) = look();
            Check { name, verdict, found, advice }
        };
        let report = Report { checks: CHECKS.map(check).into() };
        let worst = report.checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
        let text = match self.json {
            true => json::text("una.doctor/1", &report),
            false => lines(&report, std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()),
        };
        print(&text)?;
        Ok(if worst == Verdict::Fail { status::FAILED } else { 0 })
    }
}

fn lines(report: &Report, coloured: bool) -> String {
    let mut text = String::new();
    for Check { name, verdict, found, advice } in &report.checks {
        let (word, colour) = match verdict {
            Verdict::Ok => ("ok  ", "32"),
            Verdict::Warn => ("warn", "33"),
            Verdict::Fail => ("FAIL", "31"),
        };
        let word = if coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.into() };
        text += &format!("{word}  {name:<13} {found}\n");
        if let Some(advice) = advice {
            text += &format!("      {:<13} -> {advice}\n", "");
        }
    }
    let count = |verdict| report.checks.iter().filter(|check| check.verdict == verdict).count();
    text + &format!(
        "{} ok, {} to know about, {} wrong\n",
        count(Verdict::Ok),
        count(Verdict::Warn),
        count(Verdict::Fail)
    )
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn kernel() -> Finding {
    judge_kernel(read("/proc/sys/kernel/osrelease").trim())
}

fn judge_kernel(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 7) => fine(format!("Linux {release}")),
        (Some(major), Some(minor)) if (major, minor) >= (5, 10) => {
            warn(format!("Linux {release}"), "from 6.7 on, what a process changed since its last image is found faster")
        }
        _ => fail(format!("Linux {release}"), "una needs Linux 5.10 or newer"),
    }
}

fn processor() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, |count| count.get());
    let found = format!("{count} of {}", std::env::consts::ARCH);
    match std::env::consts::ARCH {
        "x86_64" => fine(found),
        _ => warn(found, "una is tested on x86-64 only"),
    }
}

fn memory() -> Finding {
    let meminfo = read("/proc/meminfo");
    let value = |key: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(key))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
    };
    let (Some(free), Some(total)) = (value("MemAvailable:"), value("MemTotal:")) else {
        return warn("not known", "/proc/meminfo cannot be read");
    };
    let found = format!("{} of {} available", freeze::size(free), freeze::size(total));
    if free < 128 << 20 {
        fail(found, "end something: large programs will not even compile")
    } else if free < 1 << 30 {
        warn(found, "compiling a large program (Python) for the first time takes up to 1 GB")
    } else {
        fine(found)
    }
}

fn clock() -> Finding {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The first commit of una: no right clock is before it.
    if since < Duration::from_secs(1_760_000_000) {
        return fail("it is years behind", "set it: timedatectl set-ntp true");
    }
    // SAFETY: a structure of integers, for which zero is a value, and which asks for nothing to be changed.
    let state = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&mut clock);
        (state >= 0).then_some(clock)
    };
    match state {
        Some(clock) if clock.status & libc::STA_UNSYNC == 0 => {
            fine(format!("synchronised, within {} ms", clock.maxerror / 1000))
        }
        Some(_) => warn(
            "nobody keeps it synchronised",
            "times of files will differ between machines: timedatectl set-ntp true",
        ),
        None => fine("set; whether it is kept synchronised is not told here"),
    }
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or("no limit".into(), |limit| limit.to_string());
    let found = format!("{} ({} at most)", shown(limit.current), shown(limit.maximum));
    match limit.current {
        Some(current) if current < 256 => fail(found, "raise it before una up: ulimit -n 65536"),
        Some(current) if current < 4096 => {
            warn(found, "with many processes and clients una runs out of them: ulimit -n 65536 before una up")
        }
        _ => fine(found),
    }
}

fn own_directories() -> Finding {
    for (what, directory) in
        [("data", directories::data()), ("cache", directories::cache()), ("runtime", directories::runtime())]
    {
        if let Err(failure) = directory {
            let (why, help) = failure.to_lines();
            return fail(format!("{what}: {why}"), help.unwrap_or_else(|| "una keeps its files there".into()));
        }
    }
    match directories::data() {
        Ok(data) => fine(data.display().to_string()),
        Err(failure) => fail(failure.to_lines().0, "una keeps its files there"),
    }
}

fn disk() -> Finding {
    let found = directories::data().map_err(|failure| failure.to_lines().0).and_then(|data| {
        rustix::fs::statvfs(&data).map_err(|error| error.to_string()).map(|stat| (stat.f_bavail * stat.f_frsize, data))
    });
    match found {
        Ok((free, data)) => {
            let found = format!("{} free", freeze::size(free));
            let advice = format!("make room on the disk of {}", data.display());
            match free {
                0..67_108_864 => fail(found, advice),
                67_108_864..1_073_741_824 => warn(found, advice),
                _ => fine(found),
            }
        }
        Err(why) => fail(why, "una keeps its files there"),
    }
}

/// How long the disk takes to make a small write safe: what every acknowledgement of a file or name waits for.
fn fsync() -> Finding {
    const ROUNDS: usize = 9;
    let measure = || -> std::io::Result<Duration> {
        let data = directories::data().map_err(|failure| std::io::Error::other(failure.to_lines().0))?;
        let path = data.join(format!(".doctor-{}", std::process::id()));
        let written = measure_fsync(&path, ROUNDS);
        let _ = std::fs::remove_file(&path);
        written
    };
    match measure() {
        Ok(median) => {
            let found = format!("{:.2} ms", median.as_secs_f64() * 1e3);
            match median.as_micros() {
                // A disk that acknowledges faster than light crosses its cable has not written anything.
                0..20 => {
                    warn(found, "too fast for a disk: is it in memory? Then a power cut takes what una acknowledged")
                }
                20..20_000 => fine(found),
                _ => warn(found, "each durable change waits that long; put una's data on a faster disk: XDG_DATA_HOME"),
            }
        }
        Err(error) => fail(error.to_string(), "una cannot keep anything on this disk"),
    }
}

fn measure_fsync(path: &Path, rounds: usize) -> std::io::Result<Duration> {
    let mut file = File::create(path)?;
    let mut times = vec![];
    for _ in 0..rounds {
        file.write_all(&[7; 4096])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[rounds / 2])
}

fn userfaultfd() -> Finding {
    judge(
        engine::pages::support().missing,
        "a program that moves here starts only when all of its memory has come; in a container, allow the system call userfaultfd or pass \
         /dev/userfaultfd in",
    )
}

fn pagemap_scan() -> Finding {
    judge(
        engine::pages::support().tracking,
        "of a program that moves all memory is looked at again and again, not only what changed; it takes Linux 6.7, and userfaultfd",
    )
}

fn judge(support: std::result::Result<(), String>, advice: &str) -> Finding {
    match support {
        Ok(()) => fine("available"),
        Err(why) => warn(why, advice),
    }
}

fn fuse() -> Finding {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => fine("available"),
        Err(error) => warn(
            format!("/dev/fuse: {error}"),
            "una's tree cannot be mounted on this machine; una ls, cat and cp work without it",
        ),
    }
}

fn cgroup() -> Finding {
    let own = read("/proc/self/cgroup");
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return warn("no cgroup v2", "the daemon's use of this machine cannot be limited by the system");
    };
    let directory = format!("/sys/fs/cgroup{}", path.trim_end_matches('/'));
    let procs = format!("{directory}/cgroup.procs");
    let writable = rustix::fs::access(procs.as_str(), rustix::fs::Access::WRITE_OK);
    match writable {
        Ok(()) => fine(format!("delegated: {directory}")),
        Err(_) => warn(
            format!("not delegated: {directory}"),
            "to limit all of una from outside: systemd-run --user --scope -p Delegate=yes una up",
        ),
    }
}

/// Whether it can be seen that somebody uses this machine, which it takes to lend it while idle.
fn owner() -> Finding {
    judge_owner(drivers::presence::Machine::new().sources())
}

fn judge_owner(sources: Sources) -> Finding {
    let Sources { terminals, hands, work } = sources;
    let found = format!("{terminals} terminals, {hands} keyboards and mice");
    match (terminals + hands, work) {
        (0, false) => warn(
            "nothing is seen of them",
            "with una up --lend idle this machine would be lent although its owner is there",
        ),
        (0, true) => warn(
            "only work is seen, no terminal, keyboard or mouse",
            "with una up --lend idle an owner would be seen only by what their machine computes",
        ),
        (_, false) => warn(found, "/proc/stat cannot be read: work of the owner's is no sign for una up --lend idle"),
        (_, true) => fine(format!("{found}, and work: una up --lend idle would see them")),
    }
}

fn daemon_runs() -> Finding {
    let data = match directories::node() {
        Ok(data) => data,
        Err(failure) => return fail(failure.to_lines().0, "una keeps its files there"),
    };
    let mut connection = match Connection::open(&data) {
        Ok(connection) => connection,
        Err(ConnectError::NoDaemon) => {
            return warn(
                "none is running",
                "start one: una up -d (una run works without, but una ps -a, top, ls... need it)",
            );
        }
        Err(error @ ConnectError::Silent { .. }) => {
            return fail(error.to_string(), "if it stays so, end it and start it again: una down, una up -d");
        }
        Err(error) => return fail(error.to_string(), "una down, una up -d"),
    };
    match connection.ask(&Request::Status) {
        Ok(Reply::Status(found)) => {
            let node = &found.node;
            fine(format!(
                "una {} is up, process {}, {} processes on {} processors",
                found.version, found.host_pid, node.processes, node.processors
            ))
        }
        Ok(other) => fail(format!("it answered something else: {other:?}"), "una down, una up -d"),
        Err(error) => fail(error.to_string(), "una down, una up -d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_numbers() {
        let verdict = |release| judge_kernel(release).0;
        assert_eq!(verdict("6.18.44-fc-v657"), Verdict::Ok);
        assert_eq!(verdict("6.6.0"), Verdict::Warn);
        assert_eq!(verdict("5.10.0-21-amd64"), Verdict::Warn);
        assert_eq!(verdict("4.19.1"), Verdict::Fail);
        assert_eq!(verdict("what"), Verdict::Fail);
    }

    #[test]
    fn whether_an_owner_would_be_seen_is_told() {
        let verdict = |terminals, hands, work| judge_owner(Sources { terminals, hands, work }).0;
        assert_eq!(verdict(1, 0, true), Verdict::Ok);
        assert_eq!(verdict(0, 2, true), Verdict::Ok);
        assert_eq!(verdict(0, 0, true), Verdict::Warn);
        assert_eq!(verdict(3, 1, false), Verdict::Warn);
        assert_eq!(verdict(0, 0, false), Verdict::Warn);
    }

    #[test]
    fn the_report_is_whole() {
        let check = |name, verdict| Check { name, verdict, found: "f".into(), advice: Some("a".into()) };
        let report = Report { checks: vec![check("x", Verdict::Fail), check("y", Verdict::Ok)] };
        let text = lines(&report, false);
        assert!(
            text.contains("FAIL  x") && text.contains("-> a") && text.ends_with("1 ok, 0 to know about, 1 wrong\n")
        );
        assert!(!text.contains('\x1b') && lines(&report, true).contains("\x1b[31mFAIL"));
    }
}
