//! Named steps at which a test holds a daemon, to end it or another there. Knows the names; not what is done between them.
//!
//! The one idea: a protocol is tried at each of its steps only if one can stop *at* the step, and not about then. `UNA_STEPS` names a
//! directory when the daemon is started. Whoever comes to a step of which there is a file of that name makes it `NAME.reached`, and
//! goes on when that is gone. Without the variable a step is one look at a word of memory.
//!
//! ```text
//!   test        touch leaving-ready                          kill -9, cut a cable, ...      rm leaving-ready.reached
//!   daemon                          ... leaving-ready.reached      waits                       goes on
//! ```

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where the tests say at which steps to wait.
pub const VARIABLE: &str = "UNA_STEPS";

/// Whoever forgets a step does not hold a daemon for longer.
const HOLD_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

macro_rules! steps {
    ($(#[$what:meta])* $step:ident { $($(#[$text:meta])* $name:ident = $word:literal,)* }) => {
        $(#[$what])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $step {
            $($(#[$text])* $name,)*
        }

        impl $step {
            pub const ALL: &[$step] = &[$($step::$name),*];

            pub fn name(self) -> &'static str {
                match self {
                    $($step::$name => $word,)*
                }
            }

            /// It is reached now: waits here if a test wants that.
            pub fn reached(self) {
                reached(self.name());
            }
        }
    };
}

steps! {
/// Of a process that moves.
Step {
    // At the node that it leaves.
    LeavingAsked = "leaving-asked",
    /// The other node has the program.
    LeavingPrepared = "leaving-prepared",
    /// Its memory has been copied while it ran.
    LeavingCopied = "leaving-copied",
    /// It stands still, and nothing of it but memory was sent.
    LeavingStopped = "leaving-stopped",
    /// All was sent.
    LeavingSent = "leaving-sent",
    /// The other node is ready for it; the kernel has not let it go.
    LeavingReady = "leaving-ready",
    /// The kernel has let it go; nobody was told.
    LeavingDeparted = "leaving-departed",
    /// It is there, and its pages have not followed.
    LeavingPages = "leaving-pages",

    // At the node to which it comes.
    ArrivingAsked = "arriving-asked",
    /// The program is ready, and the other node does not know.
    ArrivingLoaded = "arriving-loaded",
    /// It has stopped there; its state comes.
    ArrivingStopped = "arriving-stopped",
    /// The kernel expects it, and the other node does not know.
    ArrivingExpected = "arriving-expected",
    /// The other node was told that it may come.
    ArrivingReady = "arriving-ready",
    /// The kernel has it, and it has not run yet.
    ArrivingSettled = "arriving-settled",
    /// It runs, and nobody was told.
    ArrivingRuns = "arriving-runs",
    /// Its pages are still to come.
    ArrivingPages = "arriving-pages",
}
}

steps! {
/// Of facts that move to another coordinator, at the node that moves them. See `drivers::coordinator::moved::Step`.
FactsStep {
    Fenced = "facts-fenced",
    Emptied = "facts-emptied",
    Copied = "facts-copied",
    Compared = "facts-compared",
    Switched = "facts-switched",
    Opened = "facts-opened",
}
}

fn reached(name: &str) {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(directory) = DIRECTORY.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)) {
        hold(directory, name, HOLD_MAX);
    }
}

fn hold(directory: &Path, name: &str, most: Duration) {
    let reached = directory.join(format!("{name}.reached"));
    // Of several who come, one finds the file.
    if std::fs::rename(directory.join(name), &reached).is_err() {
        return;
    }
    let until = Instant::now() + most;
    while reached.exists() && Instant::now() < until {
        std::thread::sleep(LOOK_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_names_of_their_own() {
        let all = Step::ALL.iter().map(|step| step.name()).chain(FactsStep::ALL.iter().map(|step| step.name()));
        let names: std::collections::BTreeSet<&str> = all.collect();
        assert_eq!(names.len(), Step::ALL.len() + FactsStep::ALL.len());
    }

    #[test]
    fn who_comes_to_a_step_waits_until_it_is_let_go_and_others_pass() {
        let directory = std::env::temp_dir().join(format!("una-steps-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let reached = directory.join("here.reached");
        // Nobody wants it: this returns.
        hold(&directory, "here", Duration::from_secs(60));
        std::fs::write(directory.join("here"), []).unwrap();
        let held = std::thread::spawn({
            let directory = directory.clone();
            move || hold(&directory, "here", Duration::from_secs(60))
        });
        let until = Instant::now() + Duration::from_secs(60);
        while !reached.exists() {
            assert!(Instant::now() < until, "it came to no step");
            std::thread::yield_now();
        }
        // The second one to come passes, and the first is still held.
        hold(&directory, "here", Duration::from_secs(60));
        assert!(!held.is_finished());
        std::fs::remove_file(&reached).unwrap();
        held.join().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
