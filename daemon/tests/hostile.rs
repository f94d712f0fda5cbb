//! Programs that call the import module `una` with anything: the node stays up, and every program ends or is ended.

use daemon::node::{End, Node, NodeOptions, Order, ProcessLimits, Stdio};
use std::fmt::Write;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(120);
const PROGRAMS: u64 = 60;
const CALLS: u64 = 300;

/// Name, and what its parameters are: `p`ointer or number of 32 bits, `d`eadline, `b`ig number.
const FUNCTIONS: [(&str, &str); 27] = [
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
    ("process_wait", "ppd"),
    ("process_kill", "p"),
    ("process_hold", "p"),
    ("process_release", "p"),
    // A second one with good arguments, so that there is something to do things with.
    ("port_create", "good"),
];

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.number() % all.len() as u64) as usize]
    }
}

fn program(seed: u64) -> String {
    let mut random = Random(seed);
    let mut text = String::from("(module (memory (export \"memory\") 1) (data (i32.const 64) \"/port/x\")\n");
    for (index, (name, parameters)) in FUNCTIONS.iter().enumerate() {
        let types: String = match *parameters {
            "good" => " i32 i32 i32 i32".into(),
            parameters => parameters.chars().map(|p| if p == 'p' { " i32" } else { " i64" }).collect(),
        };
        writeln!(text, "(import \"una\" \"{name}\" (func $f{index} (param{types}) (result i32)))").unwrap();
    }
    // Imports come first in a module.
    let (head, imports) = text.split_once('\n').unwrap();
    let mut module = format!("(module\n{imports}{}\n(func (export \"_start\")\n", &head["(module".len()..]);
    for _ in 0..CALLS {
        let index = random.number() as usize % FUNCTIONS.len();
        let mut call = format!("(drop (call $f{index}");
        match FUNCTIONS[index].1 {
            "good" => call.push_str(" (i32.const 4) (i32.const 1000) (i32.const 0) (i32.const 128)"),
            parameters => {
                for parameter in parameters.chars() {
                    let value = match parameter {
                        'p' => random.of(&[0, 1, 2, 3, 4, 7, 8, 12, 64, 71, 128, 1000, 65_448, 65_535, 65_536, 0x7fff_ffff, -1, -8]),
                        'd' => random.of(&[0, 1, 1_000_000_000]),
                        _ => random.of(&[0, 1, -1, i64::MAX]),
                    };
                    let ty = if parameter == 'p' { "i32" } else { "i64" };
                    write!(call, " ({ty}.const {value})").unwrap();
                }
            }
        }
        writeln!(module, "{call}))").unwrap();
    }
    module + "))"
}

#[test]
fn whatever_a_program_asks_the_node_stays_up() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&NodeOptions {
        data: directory.path().join("data"),
        cache: None,
        workers: Some(2),
        target: engine::Target::Native,
        canonical_nans: false,
        node: daemon::node::FIRST_NODE,
    })
    .unwrap();
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..PROGRAMS {
        let program = node.load(wat::parse_str(program(seed)).unwrap(), &mut |_| {}).unwrap();
        let started = node
            .run(Order {
                program,
                name: format!("hostile {seed}"),
                args: vec![],
                env: vec![],
                mounts: vec![],
                limits: ProcessLimits { cpu_total: Some(Duration::from_secs(5)), ..ProcessLimits::default() },
                stdio: Stdio::default(),
            })
            .unwrap();
        let end = node.wait(started.pid, SOON).unwrap().unwrap_or_else(|| panic!("program {seed} does not end"));
        *ends.entry(format!("{end:?}")).or_insert(0u32) += 1;
        assert!(!matches!(end, End::NotStarted(_)), "program {seed}: {end:?}");
    }
    // Not all of them trip over the first stone.
    assert!(ends.get("Exited(0)").is_some_and(|count| *count > PROGRAMS as u32 / 4), "{ends:?}");
    node.shutdown().unwrap();
}
