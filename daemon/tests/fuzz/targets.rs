//! What the fuzzer calls with bytes of its own making, as plain functions, so that tests can call them with bytes of theirs: programs,
//! system calls, what clients say. Whatever comes, nothing panics, and the node goes on.

use daemon::node::{Console, End, Node, NodeOptions, Order, Piece, ProcessLimits, Started, Stdio};
use std::fmt::Write;
use std::sync::OnceLock;
use std::time::Duration;

/// For what happens at once, on a machine however busy.
const SOON: Duration = Duration::from_secs(120);
/// How long a program may wait for something before it is killed.
const PATIENCE: Duration = Duration::from_millis(50);

/// What became of an input; the tests look at whether all of this happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Refused,
    Accepted,
    /// A program ran to an end of its own.
    Ended,
    /// A program was killed because it waited or computed for too long.
    Killed,
    /// A program broke a rule and was ended for it.
    Failed,
}

/// One node for all inputs, as a node lives through all programs.
fn node() -> &'static Node {
    static NODE: OnceLock<(Node, tempfile::TempDir)> = OnceLock::new();
    let (node, _) = NODE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let options = NodeOptions {
            data: directory.path().join("data"),
            cache: None,
            workers: Some(2),
            target: engine::Target::Native,
            ..NodeOptions::default()
        };
        (Node::start(&options).expect("a node starts in an empty directory"), directory)
    });
    node
}

fn run(program: engine::Program, args: &[&str]) -> Fate {
    let limits = ProcessLimits {
        cpu_total: Some(Duration::from_secs(2)),
        memory_bytes: Some(64 << 20),
        output_bytes: Some(1 << 20),
        ..ProcessLimits::default()
    };
    let order = Order {
        program,
        name: "fuzzed".into(),
        args: args.iter().map(|arg| arg.to_string()).collect(),
        env: vec![("A".into(), "b".into())],
        mounts: vec![],
        limits,
        stdio: Stdio::default(),
    };
    let Ok(Started { pid, .. }) = node().run(order) else { return Fate::Refused };
    let end = match node().wait(pid, PATIENCE).expect("it was started") {
        Some(end) => end,
        None => {
            // It may end just now.
            let _ = node().kill(pid);
            node().wait(pid, SOON).expect("it was started").expect("what is killed ends")
        }
    };
    match end {
        End::Exited(_) => Fate::Ended,
        End::Killed | End::CpuLimit => Fate::Killed,
        _ => Fate::Failed,
    }
}

/// That the node still does what nodes do.
pub fn the_node_goes_on() {
    const HELLO: &str = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\n")
        (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))))"#;
    let program = node().load(wat::parse_str(HELLO).expect("it is a module"), &mut |_| {}).expect("it is a program");
    let order = Order {
        program,
        name: "hello".into(),
        args: vec![],
        env: vec![],
        mounts: vec![],
        limits: ProcessLimits::default(),
        stdio: Stdio::default(),
    };
    let Started { pid, console } = node().run(order).expect("it has room");
    assert_eq!(node().wait(pid, SOON), Ok(Some(End::Exited(0))));
    assert_eq!(first(&console), b"hello\n");
}

fn first(console: &Console) -> Vec<u8> {
    match console.read(0, 1 << 16, Duration::ZERO) {
        Piece::Bytes { bytes, .. } => bytes.to_vec(),
        _ => vec![],
    }
}

/// Any bytes as a program, and those of a program with some of them changed or its end cut off: it is refused with an error that can be
/// told, or runs and ends.
pub fn program(bytes: &[u8]) -> Fate {
    let mut fate = load(bytes.to_vec());
    let mut numbers = Numbers::new(bytes);
    let mut wasm = wat::parse_str(calling(&mut numbers, 12)).expect("it is a module");
    for _ in 0..numbers.below(4) {
        let at = numbers.below(wasm.len() as u64) as usize;
        wasm[at] = numbers.below(256) as u8;
    }
    if numbers.below(8) == 0 {
        wasm.truncate(numbers.below(wasm.len() as u64) as usize);
    }
    fate = fate.max(load(wasm));
    fate
}

fn load(wasm: Vec<u8>) -> Fate {
    match node().load(wasm, &mut |_| {}) {
        Ok(program) => run(program, &["fuzzed"]),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Fate::Refused
        }
    }
}

/// A program that calls WASI and the import module `una` with numbers and bytes from the input.
pub fn calls(bytes: &[u8]) -> Fate {
    let mut numbers = Numbers::new(bytes);
    let text = calling(&mut numbers, 60);
    match node().load(wat::parse_str(&text).expect("it is a module"), &mut |_| {}) {
        Ok(program) => run(program, &["fuzzed", "an argument"]),
        Err(error) => panic!("{error}: {text}"),
    }
}

/// What a client says on the socket.
pub fn protocol(bytes: &[u8]) -> Fate {
    let mut said = b"una\0".to_vec();
    said.extend_from_slice(&daemon::protocol::PROTOCOL.to_le_bytes());
    said.extend_from_slice(b"\x050.0.0");
    let mut numbers = Numbers::new(bytes);
    // Frames that are whole, of which some hold what is nearly a request.
    while !numbers.is_used_up() {
        let kind = 1 + numbers.below(5) as u8;
        let mut payload = match numbers.below(4) {
            0 => br#"{"request":"status"}"#.to_vec(),
            1 => br#"{"request":"processes","ended":true}"#.to_vec(),
            2 => br#"{"request":"kill","pid":18446744073709551615}"#.to_vec(),
            _ => (0..numbers.below(40)).map(|_| numbers.below(256) as u8).collect(),
        };
        if !payload.is_empty() && numbers.below(3) == 0 {
            let at = numbers.below(payload.len() as u64) as usize;
            payload[at] = numbers.below(256) as u8;
        }
        let length = match numbers.below(12) {
            0 => numbers.next() as u32,
            _ => payload.len() as u32,
        };
        said.push(kind);
        said.extend_from_slice(&length.to_le_bytes());
        said.extend_from_slice(&payload);
    }
    let outcomes = [daemon::protocol::examine(bytes), daemon::protocol::examine(&said)];
    for outcome in &outcomes {
        if let Err(error) = outcome {
            assert!(!error.to_string().is_empty());
        }
    }
    if outcomes[1].is_ok() { Fate::Accepted } else { Fate::Refused }
}

/// Name, and its parameters: `p`ointer or another number of 32 bits, `d`eadline, `b`ig number.
const UNA: [(&str, &str); 27] = [
    ("port_create", "pppp"),
    ("port_status", "pp"),
    ("send", "pppppd"),
    ("send_unreliable", "ppp"),
    ("receive", "ppppd"),
    ("select", "pppppd"),
    ("call", "ppppppppd"),
    ("last_answer", "ppp"),
    ("reply", "ppppp"),
    ("pipe_create", "pp"),
    ("pipe_read", "ppppd"),
    ("pipe_write", "ppppd"),
    ("handle_close", "p"),
    ("handle_duplicate", "ppp"),
    ("handle_rights", "pp"),
    ("port_badge", "pbpp"),
    ("watch", "ppbp"),
    ("timer", "dpbp"),
    ("name_bind", "pppp"),
    ("name_unbind", "pp"),
    ("name_lookup", "ppp"),
    ("spawn", "pppppppp"),
    ("spawn_placed", "pppppppppp"),
    ("process_wait", "ppd"),
    ("process_kill", "p"),
    ("process_hold", "p"),
    ("process_release", "p"),
];

/// All but `proc_exit`, which has no result.
const WASI: [(&str, &str); 45] = [
    ("args_get", "pp"),
    ("args_sizes_get", "pp"),
    ("environ_get", "pp"),
    ("environ_sizes_get", "pp"),
    ("clock_res_get", "pp"),
    ("clock_time_get", "pbp"),
    ("fd_advise", "pbbp"),
    ("fd_allocate", "pbb"),
    ("fd_close", "p"),
    ("fd_datasync", "p"),
    ("fd_fdstat_get", "pp"),
    ("fd_fdstat_set_flags", "pp"),
    ("fd_fdstat_set_rights", "pbb"),
    ("fd_filestat_get", "pp"),
    ("fd_filestat_set_size", "pb"),
    ("fd_filestat_set_times", "pbbp"),
    ("fd_pread", "pppbp"),
    ("fd_prestat_get", "pp"),
    ("fd_prestat_dir_name", "ppp"),
    ("fd_pwrite", "pppbp"),
    ("fd_read", "pppp"),
    ("fd_readdir", "pppbp"),
    ("fd_renumber", "pp"),
    ("fd_seek", "pbpp"),
    ("fd_sync", "p"),
    ("fd_tell", "pp"),
    ("fd_write", "pppp"),
    ("path_create_directory", "ppp"),
    ("path_filestat_get", "ppppp"),
    ("path_filestat_set_times", "ppppbbp"),
    ("path_link", "ppppppp"),
    ("path_open", "pppppbbpp"),
    ("path_readlink", "pppppp"),
    ("path_remove_directory", "ppp"),
    ("path_rename", "pppppp"),
    ("path_symlink", "ppppp"),
    ("path_unlink_file", "ppp"),
    ("poll_oneoff", "pppp"),
    ("proc_raise", "p"),
    ("sched_yield", ""),
    ("random_get", "pp"),
    ("sock_accept", "ppp"),
    ("sock_recv", "pppppp"),
    ("sock_send", "ppppp"),
    ("sock_shutdown", "pp"),
];

/// A module that makes so many calls, with what the input says in its memory.
fn calling(numbers: &mut Numbers, calls: u32) -> String {
    let mut text = String::from("(module\n");
    let modules = [("una", &UNA[..]), ("wasi_snapshot_preview1", &WASI[..])];
    for (index, (module, name, parameters)) in functions(modules).enumerate() {
        let types: String = parameters.chars().map(|p| if p == 'p' { " i32" } else { " i64" }).collect();
        writeln!(text, "(import \"{module}\" \"{name}\" (func $f{index} (param{types}) (result i32)))")
            .expect("text grows");
    }
    text.push_str("(memory (export \"memory\") 1) (data (i32.const 64) \"/port/x\") (data (i32.const 80) \"file\")\n");
    // Vectors that can be read: a buffer each, and then whatever comes.
    text.push_str("(data (i32.const 96) \"\\00\\10\\00\\00\\20\\00\\00\\00\\00\\20\\00\\00\\00\\01\\00\\00\") (data (i32.const 128) \"");
    for _ in 0..128 {
        write!(text, "\\{:02x}", numbers.below(256)).expect("text grows");
    }
    text.push_str("\")\n(func (export \"_start\")\n");
    // Something to do things with.
    let create = "(drop (call $f0 (i32.const 4) (i32.const 1000) (i32.const 0) (i32.const 16)))\n";
    text.push_str(create);
    let count = functions(modules).count() as u64;
    for _ in 0..calls {
        let index = numbers.below(count);
        let (_, _, parameters) = functions(modules).nth(index as usize).expect("it is below their number");
        write!(text, "(drop (call $f{index}").expect("text grows");
        for parameter in parameters.chars() {
            match parameter {
                'p' => write!(text, " (i32.const {})", numbers.word() as i32),
                'd' => write!(text, " (i64.const {})", numbers.of(&[0, 1, 1_000_000_000])),
                _ => write!(text, " (i64.const {})", numbers.long() as i64),
            }
            .expect("text grows");
        }
        text.push_str("))\n");
    }
    text + "))"
}

fn functions<'a>(
    modules: [(&'a str, &'a [(&'a str, &'a str)]); 2],
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> + Clone {
    modules.into_iter().flat_map(|(module, all)| all.iter().map(move |(name, parameters)| (module, *name, *parameters)))
}

/// The input as numbers; when it is used up, numbers that follow from all of it.
pub struct Numbers<'a> {
    rest: &'a [u8],
    state: u64,
}

impl<'a> Numbers<'a> {
    pub fn new(bytes: &'a [u8]) -> Numbers<'a> {
        let state = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        Numbers { rest: bytes, state }
    }

    pub fn is_used_up(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        let number = match self.rest.split_first_chunk::<2>() {
            Some((bytes, rest)) => {
                self.rest = rest;
                u64::from(u16::from_le_bytes(*bytes))
            }
            None => {
                self.rest = &[];
                self.next()
            }
        };
        number % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Mostly one that means something somewhere.
    fn word(&mut self) -> u32 {
        match self.below(8) {
            0 => self.next() as u32,
            1 => self.of(&[65_448, 65_535, 65_536, 0x7fff_ffff, 0xffff_ffff, 0xffff_fff8]),
            2 | 3 => self.of(&[64, 71, 80, 96, 112, 128, 4096, 8192, 60_000]),
            _ => self.of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16]),
        }
    }

    fn long(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => self.of(&[u64::MAX, i64::MAX as u64, i64::MIN as u64, 1 << 32, 1 << 40]),
            2 => self.of(&[0x1fff_ffff, 0x3fff_ffff, 2, 64, 66]),
            _ => self.of(&[0, 1, 5, 100, 4096, 70_000]),
        }
    }
}
