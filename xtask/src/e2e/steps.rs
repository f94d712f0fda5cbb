//! A move is struck at each of its steps: the machine that a process leaves, that to which it goes, or a third one is killed there, or
//! stands still until the others have taken it for dead and then wakes.
//!
//! The one idea: the daemon that comes to the step is held there (`daemon/src/steps.rs`), so that the blow falls at the step and not about
//! then. Afterwards there is exactly one copy of the process, or it was lost with a machine that was struck and everybody is told so; never
//! two, and never none while both machines live.

use super::enduring::{ENDLESS, Program, Ready, each_once};
use super::moving::{RUN_MAX, Series, must};
use super::node::{Machines, Setting};
use super::until;
use crate::Outcome;
use daemon::steps::Step;
use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

const SOURCE: usize = 1;
const DESTINATION: usize = 2;
const BYSTANDER: usize = 3;
const ALL: [usize; 3] = [SOURCE, DESTINATION, BYSTANDER];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    Killed,
    /// It sleeps until the others have taken it for dead.
    Slept,
}

/// What became of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fate {
    Stayed,
    Moved,
    Lost,
}

/// Every machine, killed at every step.
pub fn every_step(setting: &Setting) -> Outcome {
    let cases = Step::ALL.iter().flat_map(|step| ALL.map(|victim| (*step, victim)));
    strike_all(setting, Blow::Killed, &cases.collect::<Vec<_>>())
}

/// Every machine, put to sleep at every step.
pub fn every_step_asleep(setting: &Setting) -> Outcome {
    let cases = Step::ALL.iter().flat_map(|step| ALL.map(|victim| (*step, victim)));
    strike_all(setting, Blow::Slept, &cases.collect::<Vec<_>>())
}

/// The steps about the one at which it goes over.
pub fn some_steps(setting: &Setting) -> Outcome {
    let cases = [
        (Step::LeavingReady, DESTINATION),
        (Step::ArrivingExpected, SOURCE),
        (Step::LeavingDeparted, SOURCE),
        (Step::ArrivingSettled, DESTINATION),
        (Step::ArrivingRuns, BYSTANDER),
    ];
    strike_all(setting, Blow::Killed, &cases)
}

fn strike_all(setting: &Setting, blow: Blow, cases: &[(Step, usize)]) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let ready = Program::C.ready(&machines)?;
    let mut series = Series(5);
    let (mut fates, mut failed) = (BTreeMap::new(), vec![]);
    for (number, (step, victim)) in cases.iter().enumerate() {
        let case = Case { machines: &machines, number, step: *step, victim: *victim, blow };
        match case.play(&ready, &mut series) {
            Ok(fate) => *fates.entry(fate).or_insert(0) += 1,
            // The others are still worth knowing, if the machines can be had again.
            Err(error) => {
                println!("        {} while n{victim} was {blow:?}: {error}", step.name());
                failed.push(format!("{} (n{victim}): {error}", step.name()));
                for machine in ALL {
                    let _ = machines.signal(machine, "CONT");
                    if machines.system(machine).is_err() {
                        let _ = machines.kill(machine);
                        machines.up(machine)?;
                    }
                }
                machines.agree(&ALL)?;
            }
        }
    }
    println!("        {} blows ({blow:?}): {fates:?}", cases.len());
    must(failed.is_empty(), format!("{} of {} blows:\n{}", failed.len(), cases.len(), failed.join("\n")))
}

struct Case<'a> {
    machines: &'a Machines,
    number: usize,
    step: Step,
    victim: usize,
    blow: Blow,
}

impl Case<'_> {
    fn play(&self, ready: &Ready, series: &mut Series) -> Outcome<Fate> {
        let Case { machines, number, step, victim, .. } = *self;
        let stop = format!("/stop{number}");
        // Large enough that pages follow it. It has no file: what is not synced of one goes with the machine that holds the tree.
        let pid = ready.start_detached(machines, SOURCE, &["8", ENDLESS, "-", &stop])?;
        until("it to print something", || match self.printed(SOURCE, &pid)?.is_empty() {
            false => Ok(()),
            true => Err("nothing".into()),
        })?;
        let holder = if step.name().starts_with("leaving") { SOURCE } else { DESTINATION };
        let held = machines.hold_at(holder, step)?;
        // Whoever asks is not struck, unless there is nobody else.
        let by = if victim == BYSTANDER { SOURCE } else { BYSTANDER };
        let mut moving = machines.begin_una(by, &["move", &pid, "node2"])?;
        until(&format!("n{holder} to come to {}", step.name()), || match (held.is_reached(), moving.try_wait()) {
            (true, _) => Ok(()),
            (false, Ok(None)) => Err("it is on its way there".into()),
            (false, ended) => Err(format!("the move has ended: {ended:?}")),
        })?;
        self.strike(|| held.let_go())?;
        let said = finished(moving)?;
        let others: Vec<usize> = ALL.into_iter().filter(|machine| *machine != victim).collect();
        let watcher = others[series.below(2) as usize];
        let mut fate = self.fate(watcher, &pid, &said)?;
        if self.blow == Blow::Killed {
            machines.up(victim)?;
            machines.agree(&ALL)?;
        }
        // A machine that comes back does not bring another copy.
        for by in ALL {
            let copies = machines.copies(by, &pid)?;
            must(copies.len() <= 1, format!("n{by} sees process {pid} on {copies:?}; {said}"))?;
        }
        if fate != Fate::Lost {
            machines.store(BYSTANDER, &stop, "")?.ok()?;
            let waited = machines.una_within(watcher, &["wait", &pid], RUN_MAX)?;
            match waited.status {
                Some(0) => each_once(&pid, &self.printed(watcher, &pid)?).map(drop)?,
                // What of its memory had not followed it was lost with the machine that it left.
                Some(_) if victim == SOURCE && fate == Fate::Moved => fate = Fate::Lost,
                _ => return Err(format!("it ends well: {waited:?}; {said}").into()),
            }
        }
        // It has ended, wherever it was.
        for by in ALL {
            until(&format!("n{by} to see no process {pid}"), || match machines.copies(by, &pid)? {
                seen if seen.is_empty() => Ok(()),
                seen => Err(format!("on {seen:?}, after it had {fate:?}; {said}")),
            })?;
        }
        Ok(fate)
    }

    fn printed(&self, by: usize, pid: &str) -> Result<String, String> {
        let done = self.machines.una(by, &["logs", pid]).map_err(|error| error.to_string())?;
        done.ok().map_err(|error| error.to_string())
    }

    fn strike(&self, let_go: impl FnOnce()) -> Outcome {
        let Case { machines, victim, blow, .. } = *self;
        let others: Vec<usize> = ALL.into_iter().filter(|machine| *machine != victim).collect();
        match blow {
            Blow::Killed => {
                machines.kill(victim)?;
                let_go();
                machines.agree(&others)
            }
            Blow::Slept => {
                machines.signal(victim, "STOP")?;
                let_go();
                machines.agree(&others)?;
                machines.signal(victim, "CONT")?;
                machines.agree(&ALL)
            }
        }
    }

    /// Where it is, as soon as one of those that were not struck can say it.
    fn fate(&self, by: usize, pid: &str, said: &str) -> Outcome<Fate> {
        let Case { machines, step, victim, .. } = *self;
        let fate = until(&format!("process {pid} to be somewhere or lost"), || match machines.copies(by, pid)?[..] {
            [node] if node == SOURCE as u64 => Ok(Fate::Stayed),
            [node] if node == DESTINATION as u64 => Ok(Fate::Moved),
            [] => {
                let waited = machines.una(by, &["wait", pid]).map_err(|error| error.to_string())?;
                match waited.status {
                    Some(0) | None => Err(format!("it is nowhere, and who waits for it is told {waited:?}; {said}")),
                    Some(_) => Ok(Fate::Lost),
                }
            }
            ref more => Err(format!("it is on {more:?}")),
        })?;
        // Until the kernel has let it go it is at the source, and nothing of it was anywhere else.
        let is_before = !matches!(
            step,
            Step::LeavingDeparted
                | Step::LeavingPages
                | Step::ArrivingReady
                | Step::ArrivingSettled
                | Step::ArrivingRuns
                | Step::ArrivingPages
        );
        let may_be = match (victim, self.blow, is_before) {
            // It can wait for a machine that it does not need, and go on to another that woke.
            (BYSTANDER, _, _) => fate == Fate::Moved,
            // Nobody knows yet that there is nobody any more to whom the kernel sends it.
            (DESTINATION, Blow::Killed, true) if step == Step::LeavingReady => fate != Fate::Moved,
            (DESTINATION, Blow::Killed, true) => fate == Fate::Stayed,
            (DESTINATION, Blow::Slept, true) => fate != Fate::Lost,
            (SOURCE, Blow::Killed, true) => fate == Fate::Lost,
            (SOURCE, Blow::Killed, false) => fate != Fate::Stayed,
            (DESTINATION, Blow::Killed, false) => fate != Fate::Moved,
            (_, Blow::Slept, _) => true,
            (victim, ..) => return Err(format!("there is no machine {victim}").into()),
        };
        must(may_be, format!("it has {fate:?} when n{victim} was struck at {}; {said}", step.name()))?;
        let was_told_so = said.contains("runs on where it was");
        must(!was_told_so || fate != Fate::Moved, format!("it has {fate:?}, and who asked was told: {said}"))?;
        Ok(fate)
    }
}

/// What `una move` said.
fn finished(mut moving: Child) -> Outcome<String> {
    let begun = Instant::now();
    while moving.try_wait()?.is_none() {
        if begun.elapsed() > RUN_MAX {
            moving.kill()?;
            moving.wait()?;
            return Err(format!("una move did not end within {} s", RUN_MAX.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = moving.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    Ok(format!("una move: {} {}", text(&done.stdout), text(&done.stderr)))
}
