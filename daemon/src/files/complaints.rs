//! What went wrong where nobody could be told, for people who look. The oldest is forgotten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

const COMPLAINTS_MAX: usize = 100;

/// Clones are the same complaints.
#[derive(Clone, Default)]
pub(super) struct Complaints(Arc<Mutex<VecDeque<String>>>);

impl Complaints {
    /// The same thing again, directly after itself, is one complaint.
    pub fn add(&self, what: String) {
        let mut all = self.0.lock().expect("nothing panics while it complains");
        if all.back() == Some(&what) {
            return;
        }
        if all.len() >= COMPLAINTS_MAX {
            all.pop_front();
        }
        all.push_back(what);
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().expect("nothing panics while it complains").iter().cloned().collect()
    }
}
