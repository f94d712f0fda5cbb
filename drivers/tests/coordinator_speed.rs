//! How fast one voter alone is, beside one synced append to a file on the same disk. Ignored: it measures, and says what it found.
//!
//! `cargo test --release -p una-drivers --test coordinator_speed -- --ignored --nocapture`

use abi::ids::NodeId;
use drivers::coordinator::raft::{Peers, Raft, Unanswered};
use drivers::coordinator::{Action, Coordinator, Range, Transaction};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

struct Nobody;

impl Peers for Nobody {
    fn ask(&self, _: NodeId, _: Vec<u8>, _: Instant, done: Box<dyn FnOnce(Result<Vec<u8>, Unanswered>) + Send>) {
        done(Err(Unanswered::NotSent("there is nobody".into())));
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort();
    times[times.len() * part / 100]
}

#[test]
#[ignore = "measures"]
fn one_voter() {
    let place = tempfile::tempdir_in(std::env::var("UNA_SPEED_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    let raft = Arc::new(Raft::open(&place.path().join("raft"), NodeId(1), Arc::new(Nobody)).unwrap());
    raft.bootstrap().unwrap();
    let mut file = std::fs::File::options().create(true).append(true).open(place.path().join("appended")).unwrap();
    let (mut appends, mut submits) = (vec![], vec![]);
    // Alternating, so that both meet the same disk.
    for round in 0..1500u64 {
        let start = Instant::now();
        file.write_all(&[round as u8; 200]).unwrap();
        file.sync_data().unwrap();
        appends.push(start.elapsed());
        let start = Instant::now();
        let transaction = Transaction::of(vec![Action::put(format!("f/{round:020}"), [round as u8; 100])]);
        raft.transact(transaction, soon()).unwrap();
        submits.push(start.elapsed());
    }
    println!("append+fdatasync p50 {:?} p99 {:?}", percentile(&mut appends, 50), percentile(&mut appends, 99));
    println!("lone transaction p50 {:?} p99 {:?}", percentile(&mut submits, 50), percentile(&mut submits, 99));
    let mut reads = vec![];
    for round in 0..2000u64 {
        let start = Instant::now();
        raft.range(Range::key(format!("f/{round:020}")), soon()).unwrap();
        reads.push(start.elapsed());
    }
    println!("linearizable read p50 {:?} p99 {:?}", percentile(&mut reads, 50), percentile(&mut reads, 99));
    for in_flight in [1u64, 8, 64, 512] {
        let next = Arc::new(AtomicU64::new(0));
        let open = Arc::new((Mutex::new(0u64), Condvar::new()));
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < Duration::from_secs(4) {
            let mut now = open.0.lock().unwrap();
            while *now >= in_flight {
                now = open.1.wait(now).unwrap();
            }
            *now += 1;
            drop(now);
            let number = next.fetch_add(1, Ordering::Relaxed);
            let open = open.clone();
            let transaction = Transaction::of(vec![Action::put(format!("g/{number:020}"), [number as u8; 100])]);
            raft.submit(
                transaction,
                soon(),
                Box::new(move |result| {
                    result.unwrap();
                    *open.0.lock().unwrap() -= 1;
                    open.1.notify_one();
                }),
            );
            count += 1;
        }
        let mut now = open.0.lock().unwrap();
        while *now > 0 {
            now = open.1.wait(now).unwrap();
        }
        println!("{in_flight} in flight: {:.0} transactions/s", count as f64 / start.elapsed().as_secs_f64());
    }
}
