//! A node in this process, asked as a server would: programs run, wait, compute, are stopped, frozen, ended.

use daemon::node::{
    Afterwards, Console, End, Freeze, Node, NodeOptions, Order, Output, Pid, Piece, ProcessLimits, Started, State,
    Stdio, ThawOrder,
};
use std::time::{Duration, Instant};

/// For what happens at once, on a machine however busy.
const SOON: Duration = Duration::from_secs(60);

struct House {
    node: Node,
    _directory: tempfile::TempDir,
}

fn house() -> House {
    let directory = tempfile::tempdir().unwrap();
    House { node: node_in(directory.path()), _directory: directory }
}

fn node_in(directory: &std::path::Path) -> Node {
    Node::start(&NodeOptions {
        data: directory.join("data"),
        cache: Some(directory.join("cache")),
        workers: Some(2),
        target: engine::Target::Native,
        ..NodeOptions::default()
    })
    .unwrap()
}

/// What programs here import and how they print.
const PRELUDE: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (memory (export "memory") 1)
    (func $print (param $at i32) (param $length i32) (result i32)
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $length))
        (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (func $read (result i32) ;; into 1024
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 4096))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.load (i32.const 8)))
"#;

const HELLO: &str = r#"(data (i32.const 100) "hello\n")
    (func (export "_start") (drop (call $print (i32.const 100) (i32.const 6))))"#;
const ECHO: &str = r#"(func (export "_start") (local $n i32)
    (loop $again
        (local.set $n (call $read))
        (if (local.get $n) (then
            (drop (call $print (i32.const 1024) (local.get $n)))
            (br $again)))))"#;
const SPIN: &str = r#"(func (export "_start") (loop $again (br $again)))"#;
const COUNT: &str = r#"(global $n (mut i32) (i32.const 0))
    (func (export "_start") (loop $again
        (global.set $n (i32.add (global.get $n) (i32.const 1)))
        (br_if $again (i32.lt_u (global.get $n) (i32.const 600000000))))
        (i32.store (i32.const 100) (i32.const 0x0a6b6f)) ;; ok
        (drop (call $print (i32.const 100) (i32.const 3))))"#;

impl House {
    fn order(&self, body: &str) -> Order {
        let wasm = wat::parse_str(format!("(module {PRELUDE} {body})")).unwrap();
        let program = self.node.load(wasm, &mut |_| {}).unwrap();
        Order {
            program,
            name: "test".into(),
            args: vec!["test".into()],
            env: vec![],
            mounts: vec![],
            limits: ProcessLimits::default(),
            stdio: Stdio { input: true, ..Stdio::default() },
        }
    }

    fn run(&self, body: &str) -> Started {
        self.node.run(self.order(body)).unwrap()
    }

    #[track_caller]
    fn end(&self, pid: Pid) -> End {
        self.node.wait(pid, SOON).unwrap().expect("it ends")
    }

    #[track_caller]
    fn until(&self, pid: Pid, wanted: impl Fn(&State) -> bool) {
        let late = Instant::now() + SOON;
        loop {
            let state = self.node.process(pid).expect("it is listed").state;
            if wanted(&state) {
                return;
            }
            assert!(Instant::now() < late, "it is {state:?}");
            std::thread::yield_now();
        }
    }
}

#[track_caller]
fn read(console: &Console, bytes: usize) -> Vec<u8> {
    let mut all = vec![];
    let mut at = 0;
    while all.len() < bytes {
        match console.read(at, 1 << 20, SOON) {
            Piece::Bytes { bytes, next, lost: 0, stream: Output::Out, .. } => {
                all.extend(bytes);
                at = next;
            }
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&all)),
        }
    }
    all
}

#[test]
fn a_program_runs_to_its_end_and_is_remembered() {
    let house = house();
    let started = house.run(HELLO);
    assert_eq!(house.end(started.pid), End::Exited(0));
    assert_eq!(read(&started.console, 6), b"hello\n");
    let view = house.node.process(started.pid).unwrap();
    assert_eq!((view.state, view.output_bytes), (State::Ended(End::Exited(0)), 6));
}

#[test]
fn a_program_that_waits_for_input_is_roused_by_it() {
    let house = house();
    let Started { pid, console } = house.run(ECHO);
    let mut before = 0;
    for round in 0..100 {
        let line = format!("round {round}\n");
        assert_eq!(console.write(line.as_bytes(), SOON), line.len());
        let all = read(&console, before + line.len());
        assert_eq!(&all[before..], line.as_bytes());
        before = all.len();
    }
    console.close_input();
    assert_eq!(house.end(pid), End::Exited(0));
}

#[test]
fn many_programs_wait_side_by_side() {
    let house = house();
    let all: Vec<Started> = (0..500).map(|_| house.run(ECHO)).collect();
    for started in &all {
        assert_eq!(started.console.write(b"x", SOON), 1);
    }
    for started in &all {
        assert_eq!(read(&started.console, 1), b"x");
        started.console.close_input();
    }
    for started in &all {
        assert_eq!(house.end(started.pid), End::Exited(0));
    }
}

#[test]
fn programs_that_compute_do_not_keep_others_from_running() {
    let house = house();
    // More than there are workers: some of these must make room for others.
    let spinning: Vec<Started> = (0..80).map(|_| house.run(SPIN)).collect();
    let Started { pid, console } = house.run(ECHO);
    assert_eq!(console.write(b"x", SOON), 1);
    assert_eq!(read(&console, 1), b"x");
    console.close_input();
    assert_eq!(house.end(pid), End::Exited(0));
    for started in &spinning {
        house.node.kill(started.pid).unwrap();
    }
    for started in &spinning {
        assert_eq!(house.end(started.pid), End::Killed);
    }
}

#[test]
fn processor_time_is_what_the_processors_gave() {
    let house = house();
    let began = Instant::now();
    let spinning: Vec<Started> = (0..8).map(|_| house.run(SPIN)).collect();
    let mut before = vec![0; spinning.len()];
    // Until there is enough to tell shares of processors from shares of time.
    while before.iter().sum::<u64>() < 1_000_000_000 {
        let now: Vec<u64> = spinning.iter().map(|one| house.node.process(one.pid).unwrap().cpu_ns).collect();
        assert!(now.iter().zip(&before).all(|(now, before)| now >= before), "{now:?} after {before:?}");
        before = now;
        assert!(began.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(1));
    }
    let processors = std::thread::available_parallelism().unwrap().get() as u128;
    let given = began.elapsed().as_nanos() * processors;
    let used = u128::from(before.iter().sum::<u64>());
    assert!(used <= given, "{used} of {given}");
    for started in &spinning {
        house.node.kill(started.pid).unwrap();
    }
}

#[test]
fn a_program_is_stopped_in_a_loop_and_goes_on() {
    let house = house();
    let Started { pid, console } = house.run(COUNT);
    house.until(pid, |state| *state == State::Running);
    house.node.stop(pid).unwrap();
    assert_eq!(house.node.process(pid).unwrap().state, State::Stopped);
    // It must have come back from where it computed before its time can stand still.
    let used = || house.node.process(pid).unwrap().cpu_ns;
    let late = Instant::now() + SOON;
    let mut before = used();
    while house.node.wait(pid, Duration::from_millis(50)) != Ok(None) || used() != before {
        assert!(Instant::now() < late, "it does not stop");
        before = used();
    }
    house.node.cont(pid).unwrap();
    assert_eq!(house.end(pid), End::Exited(0));
    assert_eq!(read(&console, 3), b"ok\n");
}

#[test]
fn a_frozen_program_goes_on_in_another_node() {
    let (first, second) = (house(), house());
    for body in [COUNT, ECHO] {
        let Started { pid, console } = first.run(body);
        let order = first.order(body);
        first.until(pid, |state| matches!(state, State::Waiting(_) | State::Running));
        let mut image = vec![];
        let how = Freeze { with_program: false, afterwards: Afterwards::End };
        first.node.freeze(pid, how, &mut image).unwrap();
        assert_eq!(first.end(pid), End::Frozen);
        drop(console);
        let program = second.node.load(order.program.wasm().clone(), &mut |_| {}).unwrap();
        let stdio = Stdio { input: true, ..Stdio::default() };
        let order =
            ThawOrder { program, name: "again".into(), mounts: vec![], limits: ProcessLimits::default(), stdio };
        let thawed = second.node.thaw(engine::Image::open(&image[..]).unwrap(), order).unwrap();
        thawed.console.write(b"ok\n", SOON);
        thawed.console.close_input();
        assert_eq!(second.end(thawed.pid), End::Exited(0));
        assert_eq!(read(&thawed.console, 3), b"ok\n");
    }
}

#[test]
fn freezing_can_leave_the_program_running() {
    let house = house();
    let Started { pid, console } = house.run(ECHO);
    for round in 0..20 {
        let mut image = vec![];
        let how = Freeze { with_program: true, afterwards: Afterwards::RunOn };
        house.node.freeze(pid, how, &mut image).unwrap();
        assert!(image.len() > 100);
        assert_eq!(console.write(b"x", SOON), 1);
        read(&console, round + 1);
    }
    console.close_input();
    assert_eq!(house.end(pid), End::Exited(0));
}

#[test]
fn limits_end_or_refuse_and_say_which() {
    let house = house();
    let cpu = Order {
        limits: ProcessLimits { cpu_total: Some(Duration::from_millis(50)), ..ProcessLimits::default() },
        ..house.order(SPIN)
    };
    let started = house.node.run(cpu).unwrap();
    assert_eq!(house.end(started.pid), End::CpuLimit);

    // Grows until it cannot, then exits with how many pages it got.
    let grow = r#"(func (export "_start")
        (loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (call $proc_exit (memory.size)))"#;
    let memory = Order {
        limits: ProcessLimits { memory_bytes: Some(4 << 20), ..ProcessLimits::default() },
        ..house.order(grow)
    };
    let started = house.node.run(memory).unwrap();
    match house.end(started.pid) {
        End::Exited(pages) => assert!((30..=64).contains(&pages), "{pages}"),
        other => panic!("{other:?}"),
    }

    let flood = r#"(func (export "_start") (local $errno i32)
        (loop $again
            (local.set $errno (call $print (i32.const 0) (i32.const 1000)))
            (br_if $again (i32.eqz (local.get $errno))))
        (call $proc_exit (local.get $errno)))"#;
    let output =
        Order { limits: ProcessLimits { output_bytes: Some(5000), ..ProcessLimits::default() }, ..house.order(flood) };
    let started = house.node.run(output).unwrap();
    assert_eq!(house.end(started.pid), End::Exited(19));
    assert_eq!(house.node.process(started.pid).unwrap().output_bytes, 5000);
}

#[test]
fn a_trap_says_where() {
    let house = house();
    let started = house.run(r#"(func $deep unreachable) (func (export "_start") (call $deep))"#);
    match house.end(started.pid) {
        End::Failed { reason, backtrace } => {
            assert!(reason.contains("unreachable"), "{reason}");
            assert!(backtrace[0].contains("deep"), "{backtrace:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_go_from_a_sender_to_a_receiver_by_name() {
    let house = house();
    let receiver = {
        let node = house.node.clone();
        std::thread::spawn(move || node.receiver("box").and_then(|receiver| receiver.receive(SOON)))
    };
    let late = Instant::now() + SOON;
    while let Err(error) = house.node.send("box", b"content", SOON) {
        assert_eq!(error.to_string(), "there is no port `box`");
        assert!(Instant::now() < late);
        std::thread::yield_now();
    }
    assert_eq!(receiver.join().unwrap(), Ok(b"content".to_vec()));
    assert!(house.node.send("a/b", b"", SOON).is_err());
    assert!(house.node.receiver("nobody").and_then(|nobody| nobody.receive(Duration::from_millis(1))).is_err());
}

#[test]
fn pids_are_never_given_out_twice_and_small_after_a_clean_stop() {
    let directory = tempfile::tempdir().unwrap();
    let mut last = Pid::new(0);
    for _ in 0..3 {
        let house = House { node: node_in(directory.path()), _directory: tempfile::tempdir().unwrap() };
        let started = house.run(HELLO);
        assert!(started.pid > last && started.pid.serial() < last.serial() + 100, "{} after {last}", started.pid);
        last = started.pid;
        house.end(started.pid);
        house.node.shutdown().unwrap();
    }
}

/// More of them than processors, half of them of four times the weight of the others: they share by weight, not by heads.
#[test]
fn programs_that_compute_share_by_weight() {
    if !may_be_less_nice() {
        eprintln!("not tried: only whom RLIMIT_NICE lets can give a thread back what it was");
        return;
    }
    let house = house();
    let processors = std::thread::available_parallelism().unwrap().get();
    // So many that each processor has some of both kinds.
    let start = |weight| {
        let limits = ProcessLimits { cpu_weight: Some(weight), ..ProcessLimits::default() };
        (0..2 * processors)
            .map(|_| house.node.run(Order { limits: limits.clone(), ..house.order(SPIN) }).unwrap())
            .collect::<Vec<_>>()
    };
    let (light, heavy) = (start(100), start(400));
    let used = |all: &[Started]| all.iter().map(|one| house.node.process(one.pid).unwrap().cpu_ns).sum::<u64>();
    let late = Instant::now() + SOON;
    // Only what comes after all of them have begun counts.
    while light.iter().chain(&heavy).any(|one| house.node.process(one.pid).unwrap().cpu_ns == 0) {
        assert!(Instant::now() < late, "one of them does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = (used(&light), used(&heavy));
    let (mut few, mut many) = (0, 0);
    while few + many < 4_000_000_000 {
        assert!(Instant::now() < late, "{few} ns and {many} ns");
        std::thread::sleep(Duration::from_millis(10));
        (few, many) = (used(&light) - before.0, used(&heavy) - before.1);
    }
    let ratio = many as f64 / few as f64;
    println!("weight 4 to 1, processor time {ratio:.2} to 1");
    assert!((2.0..8.0).contains(&ratio), "weight 4 to 1, processor time {ratio} to 1");
    for one in light.iter().chain(&heavy) {
        house.node.kill(one.pid).unwrap();
    }
}

fn may_be_less_nice() -> bool {
    // SAFETY: the calls take numbers alone; the thread that they are about ends with the closure.
    std::thread::spawn(|| unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 1) == 0 && libc::setpriority(libc::PRIO_PROCESS, 0, 0) == 0
    })
    .join()
    .unwrap()
}
