//! `una lend`: for whom this machine is there. Knows what is asked and how it is shown; the daemon does it.

use crate::failure::{Result, printable};
use crate::{json, limits, node, print, ps};
use clap::Args;
use daemon::protocol::{Reply, Request};
use daemon::system::lend::{AFTER_USUAL, Lend};
use daemon::system::view::{LendingView, OwnerView};
use std::time::Duration;

/// Say when this machine runs what others want to run
///
/// A machine that is lent while idle takes the processes of others when its owner has been away for a while. When they return, which is
/// seen by terminals, keyboards and mice, and by work that is not una's, its guests move to other nodes at once; those that cannot are
/// stopped until the owner has gone again. What somebody started at this machine, or named it for (--on), is no guest.
#[derive(Args)]
pub struct LendCommand {
    /// always, idle, or idle:TIME; without it: say how it is
    #[arg(value_name = "WHEN", value_parser = terms)]
    when: Option<Lend>,

    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

impl LendCommand {
    pub fn execute(self) -> Result<u8> {
        let request = self.when.map_or(Request::Lending, |lend| Request::Lend { lend });
        let view = match node::connect()?.ask(&request).map_err(node::failed)? {
            Reply::Lending(view) => view,
            other => return Err(node::unexpected(&other)),
        };
        if self.json {
            print(&json::text("una.lend/1", &serde_json::json!({ "lending": view })))?;
        } else {
            print(&(describe(&view) + "\n"))?;
        }
        Ok(0)
    }
}

/// `always`, `idle`, `idle:10m`.
pub fn terms(text: &str) -> std::result::Result<Lend, String> {
    let idle = |after: Duration| Lend::Idle { after_ms: after.as_millis() as u64 };
    match text.split_once(':') {
        None if text == "always" => Ok(Lend::Always),
        None if text == "idle" => Ok(idle(AFTER_USUAL)),
        Some(("idle", after)) => limits::duration(after).map(idle),
        _ => Err("expected always, idle, or idle and a time, for example idle:10m".into()),
    }
}

/// As it is written on a command line.
pub fn argument(lend: Lend) -> String {
    match lend {
        Lend::Always => "always".into(),
        Lend::Idle { after_ms } => format!("idle:{}s", after_ms.div_ceil(1000)),
    }
}

/// In one line, and one more for each guest that is stopped.
pub fn describe(view: &LendingView) -> String {
    let LendingView { lend, owner, guests, paused } = view;
    let mut text = match lend {
        Lend::Always => "at all times".to_string(),
        Lend::Idle { after_ms } => format!("while its owner has been away for {}", ps::duration(*after_ms)),
    };
    if let Some(OwnerView { here, for_ms, sign, sign_ago_ms }) = owner {
        let word = if *here { "there" } else { "away" };
        text += &format!("; they have been {word} for {}", ps::duration(*for_ms));
        if let (Some(sign), Some(ago)) = (sign, sign_ago_ms) {
            text += &format!(" ({sign}, {} ago)", ps::duration(*ago));
        }
    }
    if *guests > 0 {
        text += &format!("; {guests} guests");
    }
    for (pid, why) in paused {
        let why = if why.is_empty() { "it could not leave" } else { why };
        text += &format!("\n  {pid} is stopped until they leave, or una cont {pid}: {}", printable(why));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::node::Pid;

    #[test]
    fn terms_are_read_as_they_are_written() {
        for (text, after) in [("idle", 300), ("idle:90s", 90), ("idle:10m", 600)] {
            let lend = Lend::Idle { after_ms: after * 1000 };
            assert_eq!(terms(text), Ok(lend));
            assert_eq!(terms(&argument(lend)), Ok(lend));
        }
        assert_eq!(terms("always"), Ok(Lend::Always));
        assert_eq!(terms(&argument(Lend::Always)), Ok(Lend::Always));
        for wrong in ["", "never", "idle:", "idle:x", "idle:0", "always:5m"] {
            assert!(terms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_is_told_why_somebody_is_taken_to_be_there() {
        let owner = OwnerView { here: true, for_ms: 5_000, sign: Some("a sign".into()), sign_ago_ms: Some(2_000) };
        let view = LendingView {
            lend: Lend::Idle { after_ms: 300_000 },
            owner: Some(owner),
            guests: 2,
            paused: vec![(Pid::new(7), "no node can take it".into())],
        };
        let text = describe(&view);
        for part in
            ["away for 5m00s", "there for 5s", "(a sign, 2s ago)", "2 guests", "una cont 7: no node can take it"]
        {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert_eq!(describe(&LendingView::default()), "at all times");
    }
}
