//! What a handle lets its holder do. This file knows nothing of tables or messages.
//!
//! The one idea: rights are a set of bits in which each bit has one meaning for every kind of object, and a set can only
//! ever be narrowed. There is no operation that gives a right to who lacks it, except making a new object.

use core::fmt;

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rights(u16);

/// The kinds of objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    Process,
    Port,
    Pipe,
    Reply,
    Call,
    Watch,
    Device,
}

/// Someone asked for more than they hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Amplified {
    /// The rights asked for and not held.
    pub missing: Rights,
}

impl Rights {
    pub const NONE: Rights = Rights(0);
    /// Any object: make a second handle, for oneself or in a message.
    pub const COPY: Rights = Rights(1);
    /// Any object: give the handle away in a message.
    pub const MOVE: Rights = Rights(1 << 1);
    /// Process, port, reply: be told when it ends.
    pub const WATCH: Rights = Rights(1 << 2);
    /// Port: send and call.
    pub const SEND: Rights = Rights(1 << 3);
    /// Port: take messages out. While anybody holds this, the port lives.
    pub const RECEIVE: Rights = Rights(1 << 4);
    /// Port: make handles that carry a badge.
    pub const BADGE: Rights = Rights(1 << 5);
    /// Pipe and device: take bytes out.
    pub const READ: Rights = Rights(1 << 6);
    /// Pipe and device: put bytes in.
    pub const WRITE: Rights = Rights(1 << 7);
    /// Process: wait for its end.
    pub const WAIT: Rights = Rights(1 << 8);
    /// Process: end it.
    pub const KILL: Rights = Rights(1 << 9);
    /// Process: hold it, let it go on, interrupt its waiting.
    pub const CONTROL: Rights = Rights(1 << 10);
    /// Reply: answer. Call: collect the answer.
    pub const ANSWER: Rights = Rights(1 << 11);

    /// What whoever sends to a port is given of it: not the right to receive, nor to make badges.
    pub const SENDER: Rights = Rights::SEND.with(Rights::COPY).with(Rights::MOVE).with(Rights::WATCH);

    const NAMES: [(Rights, &'static str); 12] = [
        (Rights::COPY, "copy"),
        (Rights::MOVE, "move"),
        (Rights::WATCH, "watch"),
        (Rights::SEND, "send"),
        (Rights::RECEIVE, "receive"),
        (Rights::BADGE, "badge"),
        (Rights::READ, "read"),
        (Rights::WRITE, "write"),
        (Rights::WAIT, "wait"),
        (Rights::KILL, "kill"),
        (Rights::CONTROL, "control"),
        (Rights::ANSWER, "answer"),
    ];

    /// All that a handle to a new object of this kind carries. A right to answer cannot be copied: whoever holds it is the
    /// only one, which is what makes an answer come at most once.
    pub const fn all_of(kind: Kind) -> Rights {
        let any = Rights::COPY.with(Rights::MOVE);
        match kind {
            Kind::Process => any.with(Rights::WATCH).with(Rights::WAIT).with(Rights::KILL).with(Rights::CONTROL),
            Kind::Port => any.with(Rights::WATCH).with(Rights::SEND).with(Rights::RECEIVE).with(Rights::BADGE),
            Kind::Pipe => any.with(Rights::READ).with(Rights::WRITE),
            Kind::Reply => Rights::MOVE.with(Rights::WATCH).with(Rights::ANSWER),
            Kind::Call => Rights::ANSWER,
            Kind::Watch => Rights::NONE,
            Kind::Device => any.with(Rights::READ).with(Rights::WRITE),
        }
    }

    pub const fn with(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    pub const fn without(self, other: Rights) -> Rights {
        Rights(self.0 & !other.0)
    }

    pub const fn both(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    pub const fn contains(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Exactly the rights `wanted`, if all of them are held.
    pub const fn attenuate(self, wanted: Rights) -> Result<Rights, Amplified> {
        match self.contains(wanted) {
            true => Ok(wanted),
            false => Err(Amplified { missing: wanted.without(self) }),
        }
    }

    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// `None` if a bit is set that means nothing.
    pub const fn from_bits(bits: u16) -> Option<Rights> {
        match bits >> Rights::NAMES.len() {
            0 => Some(Rights(bits)),
            _ => None,
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut separator = "";
        for (right, name) in Rights::NAMES {
            if self.contains(right) {
                write!(f, "{separator}{name}")?;
                separator = "+";
            }
        }
        if self.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate alloc;
    use alloc::string::ToString;

    #[test]
    fn narrowing_is_the_only_way() {
        let port = Rights::all_of(Kind::Port);
        assert_eq!(port.attenuate(Rights::SEND), Ok(Rights::SEND));
        assert_eq!(
            Rights::SEND.attenuate(Rights::SEND.with(Rights::RECEIVE)),
            Err(Amplified { missing: Rights::RECEIVE })
        );
        assert!(!Rights::all_of(Kind::Reply).contains(Rights::COPY));
    }

    #[test]
    fn bits_without_a_meaning_are_refused() {
        assert_eq!(Rights::from_bits(0xfff).map(|rights| rights.to_bits()), Some(0xfff));
        assert_eq!(Rights::from_bits(0x1000), None);
        assert_eq!(Rights::SEND.with(Rights::COPY).to_string(), "copy+send");
    }
}
