//! Where a new process goes. Gathers what the policy needs to know; the policy itself is `services::placement`.

use super::System;
use super::member;
use super::view::{WhyNode, WhyView};
use crate::protocol::Placement;
use abi::ids::NodeId;

impl System {
    /// A node for a process, and for each node why it was or was not chosen. Without a node that can take it: the reasons.
    pub fn place(
        &self,
        _name: &str,
        _program: &str,
        place: &Placement,
    ) -> Result<WhyView, WhyView> {
        let inner = &self.0;
        let members = inner.directory.members().clone();
        let asked = place
            .wish
            .on
            .as_deref()
            .map(|named| member::find(&members, named));
        let mut chosen = None;
        let mut nodes = vec![];
        for (number, member) in &members {
            let up = *number == inner.me || inner.health.is_up(*number);
            let (fits, reason) = match asked {
                Some(Some(node)) if node != *number => (
                    false,
                    format!(
                        "asked for: --on {}",
                        place.wish.on.as_deref().unwrap_or_default()
                    ),
                ),
                Some(None) => (false, "there is no such node".to_string()),
                _ if !up => (false, "it is not heard".into()),
                _ if member.draining => (false, "it is draining".into()),
                Some(_) => (true, "asked for".into()),
                None if *number != inner.me => (false, "the process was started elsewhere".into()),
                None => (true, "it was started here".into()),
            };
            if fits {
                chosen = Some(*number);
            }
            nodes.push(WhyNode {
                number: number.0,
                name: member.name.clone(),
                chosen: fits,
                reason,
            });
        }
        if members.is_empty() && asked.is_none() {
            chosen = Some(inner.me);
        }
        let why = WhyView {
            chosen: chosen.map(|NodeId(number)| number),
            nodes,
        };
        if why.chosen.is_some() {
            Ok(why)
        } else {
            Err(why)
        }
    }
}
