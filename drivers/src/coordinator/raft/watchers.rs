//! Telling changes to whoever watches. It does not know what they mean.
//!
//! The one idea: a watch is a place in the history, and each event moves it on. The history is the same on every node that keeps
//! the facts, so a watch may be told its next event by this node or by any other, and loses and repeats nothing.

use super::network::{Answer, Ask};
use super::node::Node;
use crate::coordinator::planted::{Bug, planted};
use crate::coordinator::{Change, Failure, KeyRange, Revision, Sink, WatchEvent};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Bytes of keys and values told at once, beyond the first revision.
const TOLD_BYTES_MAX: usize = 1 << 20;
/// How long another node waits for changes before it says that there are none.
const WAIT: Duration = Duration::from_millis(800);
/// How often a watch that is told by this node looks whether it still hears the leader.
const LOOK_AFTER: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Changes of these keys from a revision on, and from where to go on.
type Told = (Vec<(Revision, Vec<Change>)>, Revision);

/// What is known here.
fn here(node: &Node, keys: &KeyRange, from: Revision) -> Result<Told, Failure> {
    let state = node.facts.state();
    if state.is_hidden_from(keys) {
        return Err(Failure::Compacted { revision: state.revision() });
    }
    let mut next = from.max(Revision(1));
    if planted(Bug::WatchSkipsBacklog) && from <= state.revision() && from > Revision(1) {
        return Ok((vec![], state.revision().next()));
    }
    let mut told = vec![];
    let mut bytes = 0;
    for changes in state.history(from)? {
        if bytes > TOLD_BYTES_MAX {
            return Ok((told, next));
        }
        next = changes.revision.next();
        let wanted: Vec<Change> = changes.changes.iter().filter(|change| keys.has(change.key())).cloned().collect();
        if !wanted.is_empty() {
            bytes += wanted.iter().map(bytes_of).sum::<usize>();
            told.push((changes.revision, wanted));
        }
    }
    Ok((told, next.max(state.revision().next())))
}

fn bytes_of(change: &Change) -> usize {
    match change {
        Change::Put(record) => record.key.len() + record.value.len(),
        Change::Deleted(key) => key.len(),
    }
}

/// Answers another node that asked for changes.
pub async fn changes(node: &Node, keys: &KeyRange, from: Revision, wait: Duration) -> Answer {
    let until = Instant::now() + wait.min(WAIT);
    let mut revision = node.facts.revision.subscribe();
    loop {
        let view = node.view();
        if !view.takes_part {
            return Answer::NotLeader {
                leader: view.leader.filter(|leader| *leader != node.me),
                members: view.members,
            };
        }
        revision.borrow_and_update();
        match here(node, keys, from) {
            Err(failure) => return Answer::Failed(failure),
            Ok((changes, next)) if !changes.is_empty() => return Answer::Changes { changes, next },
            // This node may be behind the one that told the watch so far.
            Ok((_, next)) if Instant::now() >= until => {
                return Answer::Changes { changes: vec![], next: next.max(from) };
            }
            Ok(_) => {}
        }
        let _ = timeout(until.saturating_duration_since(Instant::now()), revision.changed()).await;
    }
}

/// Tells a watch until it is cancelled, or has missed something.
pub async fn watch(
    node: Arc<Node>, keys: KeyRange, from: Revision, mut sink: Sink, mut cancelled: oneshot::Receiver<()>,
) {
    let mut next = from;
    loop {
        let told = tokio::select! {
            biased;
            _ = &mut cancelled => return,
            told = more(&node, &keys, next) => told,
        };
        match told {
            Ok((changes, after)) => {
                for (revision, changes) in changes {
                    sink(WatchEvent::Changed { revision, changes });
                }
                next = next.max(after);
            }
            Err(failure) => return sink(WatchEvent::Ended(failure)),
        }
    }
}

/// Waits for the next changes, or for nothing, for a while.
async fn more(node: &Arc<Node>, keys: &KeyRange, from: Revision) -> Result<Told, Failure> {
    let mut revision = node.facts.revision.subscribe();
    if node.view().takes_part {
        revision.borrow_and_update();
        let told = here(node, keys, from)?;
        if !told.0.is_empty() || told.1 > from.max(Revision(1)) {
            return Ok(told);
        }
        let _ = timeout(LOOK_AFTER, revision.changed()).await;
        return Ok((vec![], from));
    }
    let ask = Ask::Changes { keys: keys.clone(), from, wait: WAIT };
    match node.anyone(&ask).await {
        Some(Answer::Changes { changes, next }) => Ok((changes, next)),
        Some(Answer::Failed(failure @ Failure::Compacted { .. })) => Err(failure),
        _ => {
            tokio::time::sleep(PAUSE).await;
            Ok((vec![], from))
        }
    }
}
