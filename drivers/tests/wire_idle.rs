//! What a link costs when nothing crosses it. Alone in its process, so that the wire's threads are only those of this test.

#[path = "wire/node.rs"]
#[allow(dead_code)]
mod node;

use node::{ECHO, pair};
use std::time::{Duration, Instant};

/// How often threads of the wire have gone to sleep, and their processor time in ticks of 10 ms.
fn wakes() -> (u64, u64) {
    let mut sum = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if !read("comm").starts_with("una-wire") {
            continue;
        }
        let switches = read("status")
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok());
        sum.0 += switches.unwrap();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
        sum.1 += fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
    }
    sum
}

/// Two nodes, so four threads: each link has its pings, and nothing else wakes anybody.
#[test]
fn an_idle_link_hardly_wakes_anyone() {
    let (a, b) = pair();
    assert_eq!(a.ask(&b, ECHO, b"x"), Ok(b"x".to_vec()));
    let (before, start) = (wakes(), Instant::now());
    // It is not waited for anything: this is the time over which is counted, and more of it changes nothing.
    std::thread::sleep(Duration::from_secs(4));
    let (after, seconds) = (wakes(), start.elapsed().as_secs_f64());
    let per_second = (after.0 - before.0) as f64 / seconds;
    eprintln!("{per_second:.1} wakes a second, {} ms of processor time", (after.1 - before.1) * 10);
    assert!(per_second < 24.0, "{per_second} wakes a second");
    assert!(after.1 - before.1 <= 10, "{} ms of processor time", (after.1 - before.1) * 10);
}
