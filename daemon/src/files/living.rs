//! Which other nodes are there now, as whoever watches them says.

use abi::ids::NodeId;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Living {
    others: Mutex<Vec<NodeId>>,
    changed: Condvar,
}

impl Living {
    /// Gives whether that is news.
    pub fn set(&self, mut others: Vec<NodeId>) -> bool {
        others.sort();
        others.dedup();
        let mut known = self.others.lock().expect("nothing panics while it holds who lives");
        let is_news = *known != others;
        *known = others;
        self.changed.notify_all();
        is_news
    }

    pub fn others(&self) -> Vec<NodeId> {
        self.others.lock().expect("nothing panics while it holds who lives").clone()
    }

    pub fn is_empty(&self) -> bool {
        self.others.lock().expect("nothing panics while it holds who lives").is_empty()
    }

    /// Ends all waits.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Returns when somebody came or went, or after this time.
    pub fn wait(&self, most: Duration) {
        let known = self.others.lock().expect("nothing panics while it holds who lives");
        drop(self.changed.wait_timeout(known, most).expect("nothing panics while it holds who lives"));
    }
}
