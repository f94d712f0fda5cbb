//! What voters do when they hear that the leader has ended, and not only that it is silent. Knows of it what it is told; votes are
//! openraft's.
//!
//! The one idea: patience with a leader has two parts. For [`Options::promise`](super::Options::promise) after it was heard nobody votes
//! for another one, and leases rest on that; it is kept here too. The rest is there because a silence may be short, and so that not all
//! stand for election at once: for one that has ended the first reason falls away, and the second is met by taking turns.
//!
//! ```text
//!   heard last          ended, and its port is closed
//!   ├──────── promise ─────────┼─ 1st ─ 2nd ─ 3rd voter        told of its end
//!   ├──────── promise ─────────┼─────── election timeout ──────┤   only silent
//! ```

use super::node::Node;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, sleep_until};

/// Clocks run at different speeds; and what was sent may have come later than it was heard.
const LATER: Duration = Duration::from_millis(10);
/// Elections in which nobody is chosen. Then it goes on as after a silence.
const ELECTIONS_MAX: u32 = 4;
/// A leader that is heard again and again has not ended.
const WAITS_MAX: u32 = 8;

impl Node {
    /// This node has ended. If it led, another one is chosen as soon as may be.
    pub(super) async fn succeed(self: Arc<Node>, ended: u64) {
        let (mut elections, mut waits) = (0, 0);
        let heartbeat = self.options.heartbeat;
        loop {
            let turn = {
                let metrics = self.metrics.borrow();
                let leads = metrics.current_leader;
                let is_open = leads == Some(ended) || (leads.is_none() && elections > 0);
                let others = metrics.membership_config.membership().voter_ids().filter(|voter| *voter != ended);
                let mut others: Vec<u64> = others.collect();
                others.sort_unstable();
                others.iter().position(|voter| *voter == self.me).filter(|_| is_open)
            };
            let Some(turn) = turn else { return };
            let heard = self.network.heard_leader_at().unwrap_or(self.began).max(self.began);
            let due = heard + self.options.promise() + LATER + heartbeat / 4 * turn as u32;
            if due > Instant::now() {
                waits += 1;
                if waits > WAITS_MAX {
                    return;
                }
                sleep_until(due.into()).await;
                continue;
            }
            elections += 1;
            if elections > ELECTIONS_MAX || self.raft.trigger().elect().await.is_err() {
                return;
            }
            sleep(heartbeat / 2 * (turn as u32 + 1)).await;
        }
    }
}
