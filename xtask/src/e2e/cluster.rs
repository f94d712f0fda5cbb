//! The scenarios: what happens to many machines, and what must be true then. They know una by what a user sees of it.

use super::node::{FAKETIME, Machines, Setting};
use super::{Scenario, When, network, until};
use crate::Outcome;
use serde_json::Value;
use std::time::Duration;
use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, EntityType, ExportKind, ExportSection, Function, FunctionSection,
    ImportSection, MemorySection, MemoryType, Module, TypeSection, ValType,
};

pub const ALL: &[Scenario] = &[
    Scenario { name: "alone", when: When::Always, play: alone },
    Scenario { name: "join3", when: When::Always, play: join3 },
    Scenario { name: "tickets", when: When::Always, play: tickets },
    Scenario { name: "kill_first", when: When::Always, play: kill_first },
    Scenario { name: "kill_leader_and_holder", when: When::Always, play: kill_leader_and_holder },
    Scenario { name: "minority_refuses", when: When::Always, play: minority_refuses },
    Scenario { name: "one_way_cut", when: When::Always, play: one_way_cut },
    Scenario { name: "stop_cont", when: When::Always, play: stop_cont },
    Scenario { name: "addresses_change", when: When::Always, play: addresses_change },
    Scenario { name: "leave", when: When::Always, play: leave },
    Scenario { name: "restart", when: When::Always, play: restart },
    Scenario { name: "programs_anywhere", when: When::Always, play: programs_anywhere },
    Scenario { name: "name_of_a_cut_off_node", when: When::Always, play: name_of_a_cut_off_node },
    Scenario { name: "loss", when: When::Nightly, play: loss },
    Scenario { name: "restart_all", when: When::Nightly, play: restart_all },
    Scenario { name: "kill_two_of_five", when: When::Nightly, play: kill_two_of_five },
    Scenario { name: "two_way_cut", when: When::Nightly, play: two_way_cut },
    Scenario { name: "clock_jump", when: When::Nightly, play: clock_jump },
    Scenario { name: "slow_network", when: When::Nightly, play: slow_network },
];

fn must(is_so: bool, what: impl Into<String>) -> Outcome {
    if is_so { Ok(()) } else { Err(format!("not true: {}", what.into()).into()) }
}

/// One machine is a system too: it loses nothing when it dies, and is the same when it is back.
fn alone(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 1)?;
    machines.store(1, "/alone", "acknowledged\n")?.ok()?;
    let seven = machines.write(1, "seven.wasm", &exiting(7))?;
    let done = machines.una(1, &["run", &seven])?;
    must(done.status == Some(7), format!("the status of a program is its own: {done:?}"))?;
    must(machines.system(1)?["survives"] == 0, "one machine survives the loss of none")?;
    let number = machines.system(1)?["me"].clone();
    machines.kill(1)?;
    machines.up(1)?;
    machines.agree(&[1])?;
    must(machines.system(1)?["me"] == number, "a node keeps its number")?;
    machines.reads(1, "/alone", "acknowledged\n")
}

/// Three machines become one system; what one stores, all read.
fn join3(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    machines.store(2, "/hello", "from two\n")?.ok()?;
    for machine in 1..=3 {
        machines.reads(machine, "/hello", "from two\n")?;
    }
    until("three nodes to survive the loss of any one", || {
        let view = machines.system(3)?;
        if view["survives"] == 1 {
            Ok(())
        } else {
            Err(format!("survives {}: {}", view["survives"], view["coordinator"]))
        }
    })
}

/// A ticket is good once, for a while, for one system, and only as it was given.
fn tickets(setting: &Setting) -> Outcome {
    let machines = Machines::new(setting, 4)?;
    machines.up(1)?;
    let ticket = machines.ticket(1)?;
    machines.join_with(2, &ticket)?;
    let said = machines.una(3, &["join", &ticket])?.refused()?;
    must(said.contains("used"), format!("a ticket that was used is refused for that: {said}"))?;
    let fresh = machines.ticket(1)?;
    // Change one letter in the middle into another.
    let middle = fresh.len() / 2;
    let letter = if &fresh[middle..=middle] == "a" { "b" } else { "a" };
    let forged = format!("{}{letter}{}", &fresh[..middle], &fresh[middle + 1..]);
    machines.una(3, &["join", &forged])?.refused()?;
    machines.una(3, &["join", &fresh[..fresh.len() - 3]])?.refused()?;
    machines.una(3, &["join", "hello"])?.refused()?;
    let short = machines.una(1, &["ticket", "--quiet", "--lasts", "1s"])?.ok()?;
    // There is nothing to wait for but the time itself.
    std::thread::sleep(Duration::from_millis(1500));
    let said = machines.una(4, &["join", short.trim()])?.refused()?;
    must(said.contains("expired") && said.contains("una ticket"), format!("why, and how to get another: {said}"))?;
    // None of that has used the fresh one up.
    machines.join_with(3, &fresh)?;
    machines.agree(&[1, 2, 3])
}

/// The machine that began the system dies. Nothing that was acknowledged is lost, and it comes back as itself.
fn kill_first(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    machines.store(1, "/before", "acknowledged\n")?.ok()?;
    copied(&machines, 1)?;
    machines.kill(1)?;
    machines.sees(2, 1, "down")?;
    machines.sees(3, 1, "down")?;
    machines.agree(&[2, 3])?;
    machines.reads(3, "/before", "acknowledged\n")?;
    stores(&machines, 2, "/after", "without the first\n")?;
    machines.up(1)?;
    machines.agree(&[1, 2, 3])?;
    machines.reads(1, "/after", "without the first\n")
}

/// Who leads the coordinator dies, and then who decides about files.
fn kill_leader_and_holder(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    stores(&machines, 2, "/counted", "0")?;
    for round in 1..=2 {
        copied(&machines, 1)?;
        let victim = if round == 1 { machines.leader(1)? } else { machines.holder(1)? };
        let others: Vec<usize> = (1..=3).filter(|machine| *machine != victim).collect();
        machines.kill(victim)?;
        machines.agree(&others)?;
        machines.reads(others[0], "/counted", &(round - 1).to_string())?;
        stores(&machines, others[1], "/counted", &round.to_string())?;
        machines.reads(others[0], "/counted", &round.to_string())?;
        machines.up(victim)?;
        machines.agree(&[1, 2, 3])?;
        machines.reads(victim, "/counted", &round.to_string())?;
    }
    Ok(())
}

/// One of three is cut off: it refuses to decide anything and says why; the others go on; it comes back by itself.
fn minority_refuses(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    stores(&machines, 3, "/shared", "before")?;
    machines.network.cut_off(3)?;
    machines.agree(&[1, 2])?;
    until("the one that is cut off to say that it cannot decide", || {
        let view = machines.system(3)?;
        let coordinator = &view["coordinator"];
        let says = coordinator["writable"] == false && coordinator["why_not"].is_string();
        if says { Ok(()) } else { Err(coordinator.to_string()) }
    })?;
    let said = machines.store(3, "/shared", "by the minority")?.refused()?;
    must(said.contains("too few") && said.contains("una status"), format!("a refusal says why: {said}"))?;
    stores(&machines, 1, "/shared", "by the majority")?;
    machines.reads(2, "/shared", "by the majority")?;
    machines.network.heal()?;
    machines.agree(&[1, 2, 3])?;
    machines.reads(3, "/shared", "by the majority")
}

/// Two machines of three do not hear each other in one direction. Nobody is called down, and all go on.
fn one_way_cut(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let position = last_event(&machines, 3)?;
    machines.network.cut(1, 2)?;
    for round in 0..5 {
        stores(&machines, 3, "/round", &round.to_string())?;
        std::thread::sleep(Duration::from_millis(500));
    }
    machines.network.heal()?;
    machines.agree(&[1, 2, 3])?;
    for machine in 1..=3 {
        machines.reads(machine, "/round", "4")?;
    }
    nobody_was_down(&machines, 3, &position)
}

/// A machine stands still for a moment, which nobody may notice; then for long, and comes back.
fn stop_cont(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let position = last_event(&machines, 1)?;
    for round in 0..6 {
        let machine = 1 + round % 3;
        machines.signal(machine, "STOP")?;
        std::thread::sleep(Duration::from_millis(250));
        machines.signal(machine, "CONT")?;
        std::thread::sleep(Duration::from_millis(500));
    }
    nobody_was_down(&machines, 1, &position)?;
    machines.signal(3, "STOP")?;
    machines.sees(1, 3, "down")?;
    machines.sees(2, 3, "down")?;
    stores(&machines, 1, "/meanwhile", "it stood still\n")?;
    machines.signal(3, "CONT")?;
    machines.agree(&[1, 2, 3])?;
    machines.reads(3, "/meanwhile", "it stood still\n")
}

/// Two machines get other addresses while they run, and a third one while it is off: it knows none that is still good, and the ticket is
/// used up. All find one another by what they say on the network, and everybody is told where they are now.
fn addresses_change(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    machines.una(3, &["down"])?.ok()?;
    machines.ended(3)?;
    machines.agree(&[1, 2])?;
    (1..=3).try_for_each(|machine| machines.network.renumber(machine))?;
    stores(&machines, 1, "/moved", "to other addresses\n")?;
    machines.agree(&[1, 2])?;
    machines.up(3)?;
    machines.agree(&[1, 2, 3])?;
    machines.reads(3, "/moved", "to other addresses\n")?;
    for (by, machine) in [(1, 2), (2, 1), (3, 1), (1, 3)] {
        let address = network::renumbered(machine);
        until(&format!("n{by} to say that n{machine} is at {address}"), || {
            let view = machines.system(by)?;
            let lines = view["nodes"].as_array().cloned().unwrap_or_default();
            let line = lines.iter().find(|line| line["name"] == format!("node{machine}").as_str());
            let told = line.map(|line| line["addresses"].to_string()).unwrap_or_default();
            let old = format!("\"{}:", network::address(machine));
            if told.contains(&format!("\"{address}:")) && !told.contains(&old) { Ok(()) } else { Err(told) }
        })?;
    }
    Ok(())
}

/// A machine leaves: the others know, and keep what was stored.
fn leave(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    stores(&machines, 3, "/behind", "by three\n")?;
    copied(&machines, 1)?;
    machines.una(3, &["leave"])?.ok()?;
    until("n1 to know that n3 is no node any more", || match machines.state(1, 3)? {
        None => Ok(()),
        Some(seen) => Err(seen),
    })?;
    machines.agree(&[1, 2])?;
    machines.reads(1, "/behind", "by three\n")?;
    // It may come again, as another.
    machines.ended(3)?;
    machines.join(3)?;
    machines.agree(&[1, 2, 3])
}

/// A machine is ended and started: it is the same node, and knows what happened meanwhile.
fn restart(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let number = |by: usize| -> Outcome<Value> {
        let view = machines.system(by)?;
        let lines = view["nodes"].as_array().cloned().unwrap_or_default();
        let line = lines.iter().find(|line| line["name"] == "node2");
        Ok(line.ok_or("node2 is listed")?["number"].clone())
    };
    let before = number(1)?;
    machines.una(2, &["down"])?.ok()?;
    machines.ended(2)?;
    machines.agree(&[1, 3])?;
    stores(&machines, 1, "/meanwhile", "two was off\n")?;
    machines.up(2)?;
    machines.agree(&[1, 2, 3])?;
    must(number(1)? == before, "a node keeps its number")?;
    machines.reads(2, "/meanwhile", "two was off\n")
}

/// A program runs on the machine that was asked for, is seen from all, says why it is there, and is ended from another.
fn programs_anywhere(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let seven = machines.write(1, "seven.wasm", &exiting(7))?;
    let done = machines.una(1, &["run", "--on", "node2", &seven])?;
    must(done.status == Some(7), format!("the status of a program elsewhere is its own: {done:?}"))?;
    let sleeping = machines.write(1, "sleeping.wasm", &sleeping())?;
    let pid = machines.una(1, &["run", "-d", "--on", "node3", &sleeping])?.ok()?.trim().to_string();
    for by in 1..=3 {
        until(&format!("n{by} to list process {pid}"), || {
            let listed = machines.json(by, &["ps", "--json"])?;
            let processes = listed["processes"].as_array().cloned().unwrap_or_default();
            let is_there = processes.iter().any(|process| process["pid"] == pid.as_str());
            if is_there { Ok(()) } else { Err(listed.to_string()) }
        })?;
    }
    let why = machines.una(2, &["why", &pid])?.ok()?;
    must(why.contains("--on"), format!("it says that it was asked for there: {why}"))?;
    machines.una(2, &["kill", &pid])?.ok()?;
    let done = machines.una(1, &["wait", &pid])?;
    must(done.status == Some(137), format!("it was killed from another machine: {done:?}"))?;
    let nowhere = machines.una(1, &["run", "--on", "nobody", &seven])?.refused()?;
    must(nowhere.contains("nobody"), format!("a node that is not there is named: {nowhere}"))
}

/// A machine that has bound a name is cut off: others can have the name after a while, it goes on with what it knows, and when it is
/// back the name is not its own any more.
fn name_of_a_cut_off_node(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let binds = binding("/port/bell");
    let paths: Vec<String> =
        (1..=3).map(|machine| machines.write(machine, "binds.wasm", &binds)).collect::<Outcome<_>>()?;
    let start = |on: usize| -> Outcome<String> {
        let started = machines.una(on, &["run", "-d", "--on", &format!("node{on}"), &paths[on - 1]])?.ok()?;
        Ok(started.trim().to_string())
    };
    let rings = |by: usize| {
        let sent = machines.una(by, &["send", "bell", "ding", "--timeout", "1"]).map_err(|error| error.to_string())?;
        sent.ok().map(drop).map_err(|error| error.to_string())
    };
    start(3)?;
    (1..=3).try_for_each(|by| until(&format!("n{by} to find what n3 bound"), || rings(by)))?;
    let second = machines.una(2, &["run", "--on", "node2", &paths[1]])?;
    must(second.status == Some(EXISTS), format!("a name is bound once: {second:?}"))?;

    machines.network.cut_off(3)?;
    machines.agree(&[1, 2])?;
    let mut started = vec![];
    until("the name to be bound on n1", || {
        // All but one of them end at once, because the name is taken.
        started.push(start(1).map_err(|error| error.to_string())?);
        rings(2)
    })?;
    until("n3 to find what it bound itself", || rings(3))?;
    let refused = machines.una(3, &["recv", "other", "--timeout", "10"])?.refused()?;
    must(refused.contains("cannot decide"), format!("it says why it binds nothing: {refused}"))?;

    machines.network.heal()?;
    machines.agree(&[1, 2, 3])?;
    // n3's port is still there, but no name leads to it: once n1's is closed there is none.
    for pid in &started {
        // Those that ended are gone already.
        let _ = machines.una(1, &["kill", pid])?;
    }
    for by in 1..=3 {
        until(&format!("n{by} to find nothing"), || match rings(by) {
            Err(why) if why.contains("no port") => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    start(2)?;
    (1..=3).try_for_each(|by| until(&format!("n{by} to find what n2 bound"), || rings(by)))
}

/// A tenth of all packets is lost: slow, and nobody is called down.
fn loss(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let position = last_event(&machines, 1)?;
    (1..=3).try_for_each(|machine| machines.network.lose(machine, 10))?;
    for round in 0..20 {
        stores(&machines, 1 + round % 3, "/round", &round.to_string())?;
        std::thread::sleep(Duration::from_millis(500));
    }
    machines.network.heal()?;
    machines.agree(&[1, 2, 3])?;
    nobody_was_down(&machines, 1, &position)
}

/// All are ended at once, and start again in another order.
fn restart_all(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    stores(&machines, 1, "/kept", "through the night\n")?;
    (1..=3).try_for_each(|machine| machines.kill(machine))?;
    for machine in [3, 1, 2] {
        machines.up(machine)?;
    }
    machines.agree(&[1, 2, 3])?;
    machines.reads(2, "/kept", "through the night\n")
}

/// Of five, two die one after the other; then they come back.
fn kill_two_of_five(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 5)?;
    stores(&machines, 5, "/five", "0")?;
    copied(&machines, 5)?;
    machines.kill(1)?;
    machines.agree(&[2, 3, 4, 5])?;
    stores(&machines, 4, "/five", "1")?;
    copied(&machines, 5)?;
    machines.kill(2)?;
    machines.agree(&[3, 4, 5])?;
    machines.reads(3, "/five", "1")?;
    stores(&machines, 3, "/five", "2")?;
    machines.up(2)?;
    machines.up(1)?;
    machines.agree(&[1, 2, 3, 4, 5])?;
    machines.reads(1, "/five", "2")
}

/// Two machines of three do not hear each other at all; the third hears both.
fn two_way_cut(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let position = last_event(&machines, 3)?;
    machines.network.cut_both(1, 2)?;
    for round in 0..10 {
        stores(&machines, 3, "/round", &round.to_string())?;
        std::thread::sleep(Duration::from_millis(500));
    }
    machines.network.heal()?;
    machines.agree(&[1, 2, 3])?;
    machines.reads(1, "/round", "9")?;
    nobody_was_down(&machines, 3, &position)
}

/// The clock of one machine is an hour ahead, and then jumps to an hour behind while it runs. Everything goes on, and the order of events
/// is not led astray.
fn clock_jump(setting: &Setting) -> Outcome {
    must(std::path::Path::new(FAKETIME).exists(), "clocks are set by libfaketime (Debian: libfaketime)")?;
    let machines = Machines::joined(setting, 3)?;
    machines.kill(3)?;
    machines.agree(&[1, 2])?;
    machines.set_clock(3, "+3600")?;
    machines.up(3)?;
    machines.agree(&[1, 2, 3])?;
    stores(&machines, 3, "/time", "an hour ahead\n")?;
    machines.reads(1, "/time", "an hour ahead\n")?;
    let position = last_event(&machines, 1)?;
    machines.set_clock(3, "-3600")?;
    // The clock is looked up once a second.
    std::thread::sleep(Duration::from_secs(2));
    for round in 0..5 {
        stores(&machines, 1 + round % 3, "/time", &round.to_string())?;
    }
    nobody_was_down(&machines, 1, &position)?;
    // What the machine tells that is behind comes after what others told before.
    let sleeping = machines.write(3, "sleeping.wasm", &sleeping())?;
    let pid = machines.una(3, &["run", "-d", "--on", "node3", &sleeping])?.ok()?.trim().to_string();
    machines.una(1, &["mv", &pid, "node2"])?.ok()?;
    let after = events(&machines, 1, Some(&position))?;
    let is_told = after.iter().any(|event| event["kind"] == "process-moved");
    must(is_told, format!("the move is told after what was before the jump: {after:?}"))?;
    let view = machines.system(1)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    let ahead = events(&machines, 1, None)?.into_iter().filter(|event| event["node"] == view["me"]);
    let ahead = ahead.filter_map(|event| event["at_ms"].as_u64()).max().unwrap_or_default();
    must(ahead < now + 120_000, format!("n1's own events are not an hour ahead: {ahead} at {now}"))
}

/// Every connection takes 50 to 150 ms each way.
fn slow_network(setting: &Setting) -> Outcome {
    let machines = Machines::new(setting, 3)?;
    // Connections that are there already stay as they are; so this comes first.
    let _relays = machines.slow_down(Duration::from_millis(50), Duration::from_millis(150))?;
    machines.begin(3)?;
    for round in 0..5 {
        stores(&machines, 1 + round % 3, "/round", &round.to_string())?;
    }
    machines.agree(&[1, 2, 3])?;
    (1..=3).try_for_each(|machine| machines.reads(machine, "/round", "4"))
}

// What scenarios say again and again.

/// Stores, again and again until it is acknowledged: while leaders change, a refusal is right.
fn stores(machines: &Machines, machine: usize, path: &str, content: &str) -> Outcome {
    until(&format!("n{machine} to store {path}"), || {
        let done = machines.store(machine, path, content).map_err(|error| error.to_string())?;
        done.ok().map(drop).map_err(|error| error.to_string())
    })
}

/// Waits until everything that is stored is on as many machines as it should be.
fn copied(machines: &Machines, by: usize) -> Outcome {
    until("every piece of a file to have its copies", || {
        let view = machines.system(by)?;
        let files = &view["files"];
        if files["under_replicated"] == 0 && files["holder"].is_number() { Ok(()) } else { Err(files.to_string()) }
    })
}

fn events(machines: &Machines, by: usize, after: Option<&str>) -> Outcome<Vec<Value>> {
    let mut arguments = vec!["events", "--json"];
    if let Some(position) = after {
        arguments.extend(["--after", position]);
    }
    let text = machines.una(by, &arguments)?.ok()?;
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn last_event(machines: &Machines, by: usize) -> Outcome<String> {
    let events = events(machines, by, None)?;
    let position = events.last().and_then(|event| event["position"].as_str());
    Ok(position.ok_or("there are events, with positions")?.to_string())
}

fn nobody_was_down(machines: &Machines, by: usize, after: &str) -> Outcome {
    let down: Vec<String> = events(machines, by, Some(after))?
        .iter()
        .filter(|event| event["kind"].as_str().is_some_and(|kind| kind.contains("down")))
        .map(|event| event["text"].as_str().unwrap_or_default().to_string())
        .collect();
    must(down.is_empty(), format!("nobody was called down, but: {down:?}"))
}

// Programs.

/// A program that calls one function of WASI, with these arguments and this memory.
fn calling(function: &str, parameters: usize, arguments: &[i32], memory: &[u8]) -> Vec<u8> {
    let mut module = Module::new();
    let mut types = TypeSection::new();
    let results: &[ValType] = if function == "proc_exit" { &[] } else { &[ValType::I32] };
    types.ty().function(vec![ValType::I32; parameters], results.iter().copied());
    types.ty().function([], []);
    let mut imports = ImportSection::new();
    imports.import("wasi_snapshot_preview1", function, EntityType::Function(0));
    let mut functions = FunctionSection::new();
    functions.function(1);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0).export("_start", ExportKind::Func, 1);
    let mut code = CodeSection::new();
    let mut body = Function::new([]);
    for argument in arguments {
        body.instructions().i32_const(*argument);
    }
    body.instructions().call(0);
    if !results.is_empty() {
        body.instructions().drop();
    }
    body.instructions().end();
    code.function(&body);
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(0), memory.iter().copied());
    module.section(&types).section(&imports).section(&functions).section(&memories).section(&exports);
    module.section(&code).section(&data);
    module.finish()
}

/// What `una.h` calls it that a name is taken.
const EXISTS: i32 = 18;

/// It binds a port to a path and receives what comes; it ends with the code of what failed.
fn binding(path: &str) -> Vec<u8> {
    const IMPORTS: [(&str, &str, usize); 3] =
        [("una", "port_create", 4), ("una", "name_bind", 4), ("una", "receive", 5)];
    const EXIT: u32 = IMPORTS.len() as u32;
    let mut module = Module::new();
    let mut types = TypeSection::new();
    let mut imports = ImportSection::new();
    for (index, (from, name, count)) in IMPORTS.into_iter().enumerate() {
        let mut parameters = vec![ValType::I32; count];
        if name == "receive" {
            parameters[4] = ValType::I64;
        }
        types.ty().function(parameters, [ValType::I32]);
        imports.import(from, name, EntityType::Function(index as u32));
    }
    types.ty().function([ValType::I32], []);
    imports.import("wasi_snapshot_preview1", "proc_exit", EntityType::Function(EXIT));
    types.ty().function([], []);
    let mut functions = FunctionSection::new();
    functions.function(EXIT + 1);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0).export("_start", ExportKind::Func, EXIT + 1);
    // The handle of the port is at 64, the path at 1024, what is received at 4096.
    let handle = wasm_encoder::MemArg { offset: 64, align: 2, memory_index: 0 };
    let mut body = Function::new([(1, ValType::I32)]);
    let mut code = body.instructions();
    let end_if_failed = |code: &mut wasm_encoder::InstructionSink| {
        code.local_tee(0).if_(wasm_encoder::BlockType::Empty).local_get(0).call(EXIT).end();
    };
    code.i32_const(16).i32_const(1 << 16).i32_const(0).i32_const(64).call(0);
    end_if_failed(&mut code);
    code.i32_const(1024).i32_const(path.len() as i32).i32_const(0).i32_load(handle).i32_const(0).call(1);
    end_if_failed(&mut code);
    code.loop_(wasm_encoder::BlockType::Empty);
    code.i32_const(0).i32_load(handle).i32_const(4096).i32_const(4096).i32_const(128).i64_const(-1).call(2);
    end_if_failed(&mut code);
    code.br(0).end().end();
    let mut codes = CodeSection::new();
    codes.function(&body);
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(1024), path.bytes());
    module.section(&types).section(&imports).section(&functions).section(&memories).section(&exports);
    module.section(&codes).section(&data);
    module.finish()
}

fn exiting(status: i32) -> Vec<u8> {
    calling("proc_exit", 1, &[status], &[])
}

/// It waits for an hour.
fn sleeping() -> Vec<u8> {
    // A subscription of poll_oneoff: user data, tag 0 (a clock), which clock (1: the monotonic one), how long, how exactly, flags.
    let mut subscription = vec![0u8; 48];
    subscription[16] = 1;
    subscription[24..32].copy_from_slice(&3_600_000_000_000u64.to_le_bytes());
    calling("poll_oneoff", 4, &[0, 64, 1, 128], &subscription)
}
