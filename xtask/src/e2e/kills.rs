//! Machines die at random under load, one after the other, again and again; and one sleeps past its lease and wakes. What anybody was told
//! stays true: what a durable process has shown, and what was stored.
//!
//! The one idea: whatever is read from outside is noted, and must be a beginning of whatever is read later. How long nothing new came is
//! what a user waits when a machine dies.

use super::enduring::{ENDLESS, Program, Ready, each_once};
use super::moving::{Series, must};
use super::node::{Done, Machines, Setting};
use super::{PATIENCE, until};
use crate::Outcome;
use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

pub fn two_hundred(setting: &Setting) -> Outcome {
    kills(setting, 200)
}

pub fn some(setting: &Setting) -> Outcome {
    kills(setting, 4)
}

const MACHINES: usize = 5;
const DURABLE: usize = 4;
/// How often a gap is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// A process that must outlive its machines, and the lines that it was seen to print.
struct Durable {
    pid: String,
    seen: BTreeMap<usize, String>,
    /// Why nothing of it could be seen the last time, if so.
    unseen: Option<String>,
}

impl Durable {
    fn start(machines: &Machines, at: usize, ready: &Ready) -> Outcome<Durable> {
        let options = ["-d", "--durable", "--every", "0.2", "--on", &format!("node{at}")];
        let pid = ready.start_with(machines, &options, &["1", ENDLESS])?;
        Ok(Durable { pid, seen: BTreeMap::new(), unseen: None })
    }

    fn last(&self) -> usize {
        self.seen.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// What it shows now: nothing else than it has shown before, and perhaps more. Says whether there was more.
    fn look(&mut self, machines: &Machines, by: usize) -> Outcome<bool> {
        let done = machines.una_within(by, &["logs", &self.pid], PATIENCE)?;
        // While it is taken up elsewhere nobody has it.
        let shown = match done.ok() {
            Ok(shown) => shown,
            Err(why) => {
                self.unseen = Some(why.to_string());
                return Ok(false);
            }
        };
        self.unseen = None;
        let before = self.last();
        // Its end may stand in the middle of a line, and its beginning too.
        let whole = shown.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let begin = if whole.starts_with("1 ") { 0 } else { 1 };
        let mut newest = 0;
        for line in whole.lines().skip(begin) {
            let number = line.split(' ').next().and_then(|word| word.parse::<usize>().ok());
            newest = number.ok_or_else(|| format!("process {} printed {line:?}", self.pid))?;
            let due = self.seen.entry(newest).or_insert_with(|| line.into());
            must(due == line, format!("process {} showed {due:?}, and now {line:?}", self.pid))?;
        }
        // Until it has been told again what it was told, less is shown for a moment, and nothing else.
        Ok(newest > before)
    }

    /// How far it is, for people.
    fn told(&self) -> String {
        let unseen = self.unseen.as_ref().map_or(String::new(), |why| format!(", and is not seen: {}", why.trim()));
        format!("process {} has shown {} lines{unseen}", self.pid, self.last())
    }

    /// All lines that it ever showed are there, each once.
    fn is_whole(&self) -> Outcome {
        let lines = self.seen.len();
        must(lines > 0 && self.last() == lines, format!("process {} shows {lines} lines of {}", self.pid, self.last()))
    }
}

fn kills(setting: &Setting, count: usize) -> Outcome {
    let machines = Machines::joined(setting, MACHINES)?;
    let ready = Program::Showing.ready(&machines)?;
    let mut series = Series(23);
    let mut durable = vec![];
    for number in 0..DURABLE {
        durable.push(Durable::start(&machines, 1 + number % MACHINES, &ready)?);
    }
    for one in &mut durable {
        until(&format!("process {} to show something", one.pid), || shows_more(one, &machines, 1))?;
    }
    let mut stored: BTreeMap<String, String> = BTreeMap::new();
    let (mut to_output, mut to_store, mut hit) = (vec![], vec![], 0);
    let all: Vec<usize> = (1..=MACHINES).collect();
    for round in 0..count {
        // One that has something to lose, more often than not.
        let chosen = series.below(DURABLE as u64) as usize;
        let home = machines.copies(1, &durable[chosen].pid)?.first().map(|node| *node as usize);
        let victim = home.filter(|_| series.below(4) > 0).unwrap_or(1 + series.below(MACHINES as u64) as usize);
        let others: Vec<usize> = all.iter().copied().filter(|machine| *machine != victim).collect();
        let by = others[series.below(others.len() as u64) as usize];
        let (path, content) = (format!("/kept{round}"), format!("in round {round}\n"));
        let mut on_it = vec![];
        for (number, one) in durable.iter_mut().enumerate() {
            one.look(&machines, by)?;
            if machines.copies(by, &one.pid)?.contains(&(victim as u64)) {
                on_it.push(number);
            }
        }
        // Acknowledged by whoever it is, also the one that dies now.
        machines.store(1 + series.below(MACHINES as u64) as usize, &path, &content)?.ok()?;
        stored.insert(path, content);
        let killed = Instant::now();
        machines.kill(victim)?;
        hit += on_it.len();
        let (path, content) = (format!("/after{round}"), format!("after round {round}\n"));
        let mut storing = Storing::begin(&machines, by, &path, &content)?;
        let mut waiting = on_it;
        while !waiting.is_empty() || !storing.is_done {
            // Both at once, since neither shall wait for the other.
            if !storing.is_done && storing.look(&machines)? {
                to_store.push(killed.elapsed());
            }
            let mut still = vec![];
            for number in waiting {
                match durable[number].look(&machines, by)? {
                    true => to_output.push(killed.elapsed()),
                    false => still.push(number),
                }
            }
            waiting = still;
            let told = || waiting.iter().map(|number| durable[*number].told()).collect::<Vec<_>>().join("; ");
            must(
                killed.elapsed() < PATIENCE,
                format!("in round {round} all go on after n{victim} died, seen by n{by}: {}; {}", told(), storing.said),
            )?;
            std::thread::sleep(LOOK);
        }
        stored.insert(path, content);
        machines.up(victim)?;
        machines.agree(&all)?;
        for one in &mut durable {
            until(&format!("process {} to go on", one.pid), || shows_more(one, &machines, victim))?;
            let copies = machines.copies(victim, &one.pid)?;
            must(copies.len() == 1, format!("process {} is on one machine: {copies:?}", one.pid))?;
        }
        if (round + 1).is_multiple_of(20) {
            println!("        {} kills", round + 1);
        }
    }
    for (path, content) in &stored {
        machines.reads(1 + series.below(MACHINES as u64) as usize, path, content)?;
    }
    durable.iter().try_for_each(Durable::is_whole)?;
    must(hit > 0, "machines died that had something to lose")?;
    println!("        {count} kills; {} files kept; {hit} times a durable process lost its machine", stored.len());
    println!("        from a kill to more output of what was there: {}", spread(&mut to_output));
    println!("        from a kill to the next file stored:          {}", spread(&mut to_store));
    for one in &durable {
        machines.una(1, &["kill", &one.pid])?.ok()?;
    }
    Ok(())
}

/// Something that is stored while other things happen, again and again until it is acknowledged.
struct Storing {
    by: usize,
    words: [String; 3],
    child: Child,
    is_done: bool,
    /// What the last attempt said, if it failed.
    said: String,
}

impl Storing {
    fn begin(machines: &Machines, by: usize, path: &str, content: &str) -> Outcome<Storing> {
        let file = machines.write(by, "storing", content.as_bytes())?;
        let words = ["cp".into(), file, format!("una:{path}")];
        let child = machines.begin_una(by, &words.each_ref().map(String::as_str))?;
        Ok(Storing { by, words, child, is_done: false, said: "it is being stored".into() })
    }

    fn look(&mut self, machines: &Machines) -> Outcome<bool> {
        match self.child.try_wait()? {
            None => {}
            Some(status) if status.success() => self.is_done = true,
            Some(_) => {
                let again = machines.begin_una(self.by, &self.words.each_ref().map(String::as_str))?;
                self.said = Done::from(std::mem::replace(&mut self.child, again).wait_with_output()?).err;
            }
        }
        Ok(self.is_done)
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shows_more(one: &mut Durable, machines: &Machines, by: usize) -> Result<(), String> {
    match one.look(machines, by).map_err(|error| error.to_string())? {
        true => Ok(()),
        false => Err(one.told()),
    }
}

fn spread(all: &mut [Duration]) -> String {
    all.sort_unstable();
    let at = |percent: usize| all.get(all.len() * percent / 100).or(all.last()).map_or(f64::NAN, Duration::as_secs_f64);
    format!("p50 {:.2} s, p99 {:.2} s, most {:.2} s of {}", at(50), at(99), at(100), all.len())
}

/// A machine sleeps until others have its lease, and wakes: what it does then has no effect.
pub fn asleep_past_its_lease(setting: &Setting) -> Outcome {
    let machines = Machines::joined(setting, 3)?;
    let ready = Program::Showing.ready(&machines)?;
    let plain = Program::C.ready(&machines)?;
    for round in 0..2 {
        let mut durable = Durable::start(&machines, 3, &ready)?;
        let stop = format!("/slept-stop{round}");
        let other = plain.start_detached(&machines, 3, &["1", ENDLESS, "-", &stop])?;
        until("it to show something", || shows_more(&mut durable, &machines, 1))?;
        machines.signal(3, "STOP")?;
        machines.agree(&[1, 2])?;
        let home = until("it to go on elsewhere", || match machines.copies(1, &durable.pid)?[..] {
            [node] if node != 3 => Ok(node),
            ref seen => Err(format!("on {seen:?}")),
        })?;
        until("it to show more", || shows_more(&mut durable, &machines, 1))?;
        machines.signal(3, "CONT")?;
        machines.agree(&[1, 2, 3])?;
        for by in 1..=3 {
            until(&format!("n{by} to see it on n{home} alone"), || match machines.copies(by, &durable.pid)?[..] {
                [node] if node == home => Ok(()),
                ref seen => Err(format!("on {seen:?}")),
            })?;
            until("it to show more", || shows_more(&mut durable, &machines, by))?;
        }
        // The one that slept does not lead anybody astray, when it goes on elsewhere once more.
        let home = home as usize;
        machines.kill(home)?;
        for by in (1..=3).filter(|by| *by != home) {
            until(&format!("n{by} to see more after n{home} died"), || shows_more(&mut durable, &machines, by))?;
        }
        machines.up(home)?;
        machines.agree(&[1, 2, 3])?;
        for by in 1..=3 {
            until(&format!("n{by} to see more when n{home} is back"), || shows_more(&mut durable, &machines, by))?;
        }
        durable.is_whole()?;
        // What is not durable slept with its machine, and is there at most once.
        machines.store(1, &stop, "")?.ok()?;
        let waited = machines.una(2, &["wait", &other])?;
        must(waited.status.is_some(), format!("who waits for process {other} is told what became of it: {waited:?}"))?;
        if waited.status == Some(0) {
            each_once(&other, &machines.una(2, &["logs", &other])?.ok()?)?;
        }
        machines.una(1, &["kill", &durable.pid])?.ok()?;
    }
    Ok(())
}
