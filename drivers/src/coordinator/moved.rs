//! Moving the facts from one coordinator to another, so that at every moment exactly one of them takes changes. It does not know
//! how either keeps them.
//!
//! The one idea: one key is a fence. While it is there, both implementations refuse every transaction that does not itself ask
//! for it, and the one transaction that turns the fence of the old one from "is being moved" into "has moved" is the switch.

use super::{Failure, Record};

/// The key that stops all who do not ask for it. It lies before all others.
pub const FENCE: &[u8] = b"\0fence";

/// What the fence says. In the store it is text: `moving ID`, `filling ID`, `moved ID TO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fence {
    /// The facts here are being copied.
    Moving { id: u64 },
    /// Facts are being copied to here.
    Filling { id: u64 },
    /// They are there now.
    Moved { id: u64, to: String },
    /// Nothing that this una knows.
    Foreign,
}

impl Fence {
    pub fn of(record: &Record) -> Fence {
        let text = String::from_utf8_lossy(&record.value);
        let mut words = text.splitn(3, ' ');
        let kind = words.next();
        let id = words.next().and_then(|id| id.parse().ok());
        match (kind, id, words.next()) {
            (Some("moving"), Some(id), None) => Fence::Moving { id },
            (Some("filling"), Some(id), None) => Fence::Filling { id },
            (Some("moved"), Some(id), Some(to)) => Fence::Moved { id, to: to.into() },
            _ => Fence::Foreign,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Fence::Moving { id } => format!("moving {id}"),
            Fence::Filling { id } => format!("filling {id}"),
            Fence::Moved { id, to } => format!("moved {id} {to}"),
            Fence::Foreign => "foreign".into(),
        }
    }

    /// What who stops at it is told.
    pub fn refusal(&self) -> Failure {
        match self {
            Fence::Moving { .. } => Failure::unavailable("the facts are being moved to another coordinator"),
            Fence::Filling { .. } => Failure::unavailable("the facts are still being moved here"),
            Fence::Moved { id, to } => Failure::Moved { to: to.clone(), id: *id },
            Fence::Foreign => Failure::unavailable("there is a fence that this una does not know"),
        }
    }
}
