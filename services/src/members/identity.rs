//! Who a member is in the eyes of the protocol, and how what the protocol says becomes bytes. This file knows nothing of time
//! or of who belongs.
//!
//! The one idea: a member's identity only grows. A later life of a node beats an earlier one, and within one life each return
//! from having been declared down beats what was before; so old news loses against new news wherever they meet.
//!
//! ```text
//!   identity  node:16 life:64 renewal:32
//!   header    identity of the sender, its incarnation:16, identity of the receiver, kind:8, what the kind needs
//!   update    identity, incarnation:16, state:8
//! ```

use super::planted::{Bug, planted};
use abi::ids::NodeId;
use bytes::{Buf, BufMut};
use core::convert::Infallible;
use core::fmt;
use foca::{Header, Identity, Member, Message, State};

/// A member of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub node: NodeId,
    /// Counts the starts of the node.
    pub life: u64,
    /// Counts how often this life was declared down although it was not.
    pub renewal: u32,
}

pub const ID_BYTES: usize = 14;

/// Where the incarnation of the sender stands in a packet of the protocol.
pub const INCARNATION_AT: usize = ID_BYTES;

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}.{}", self.node, self.life, self.renewal)
    }
}

impl Identity for Id {
    type Addr = NodeId;

    fn renew(&self) -> Option<Id> {
        Some(Id { renewal: self.renewal.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Id) -> bool {
        if planted(Bug::OldLifeReturns) && self.life > adversary.life {
            return false;
        }
        (self.life, self.renewal) > (adversary.life, adversary.renewal)
    }
}

/// The bytes end early, or hold what the protocol does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAPacket;

impl fmt::Display for NotAPacket {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("not a packet of the members' protocol")
    }
}

impl core::error::Error for NotAPacket {}

pub struct Codec;

pub fn put_id(id: &Id, buf: &mut impl BufMut) {
    buf.put_u16(id.node.0);
    buf.put_u64(id.life);
    buf.put_u32(id.renewal);
}

pub fn get_id(buf: &mut impl Buf) -> Result<Id, NotAPacket> {
    if buf.remaining() < ID_BYTES {
        return Err(NotAPacket);
    }
    Ok(Id { node: NodeId(buf.get_u16()), life: buf.get_u64(), renewal: buf.get_u32() })
}

fn get_u8(buf: &mut impl Buf) -> Result<u8, NotAPacket> {
    if buf.has_remaining() { Ok(buf.get_u8()) } else { Err(NotAPacket) }
}

pub fn get_u16(buf: &mut impl Buf) -> Result<u16, NotAPacket> {
    if buf.remaining() >= 2 { Ok(buf.get_u16()) } else { Err(NotAPacket) }
}

impl foca::Codec<Id> for Codec {
    type Error = NotAPacket;

    fn encode_header(&mut self, header: &Header<Id>, mut buf: impl BufMut) -> Result<(), NotAPacket> {
        if buf.remaining_mut() < 3 * ID_BYTES + 4 {
            return Err(NotAPacket);
        }
        put_id(&header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_id(&header.dst, &mut buf);
        let (kind, number, third) = match &header.message {
            Message::Ping(number) => (1, Some(*number), None),
            Message::Ack(number) => (2, Some(*number), None),
            Message::PingReq { target, probe_number } => (3, Some(*probe_number), Some(target)),
            Message::IndirectPing { origin, probe_number } => (4, Some(*probe_number), Some(origin)),
            Message::IndirectAck { target, probe_number } => (5, Some(*probe_number), Some(target)),
            Message::ForwardedAck { origin, probe_number } => (6, Some(*probe_number), Some(origin)),
            Message::Announce => (7, None, None),
            Message::Feed => (8, None, None),
            Message::Gossip => (9, None, None),
            Message::Broadcast => (10, None, None),
            Message::TurnUndead => (11, None, None),
        };
        buf.put_u8(kind);
        if let Some(number) = number {
            buf.put_u8(number);
        }
        if let Some(third) = third {
            put_id(third, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Id>, NotAPacket> {
        let buf = &mut buf;
        let src = get_id(buf)?;
        let src_incarnation = get_u16(buf)?;
        let dst = get_id(buf)?;
        let message = match get_u8(buf)? {
            1 => Message::Ping(get_u8(buf)?),
            2 => Message::Ack(get_u8(buf)?),
            kind @ 3..=6 => {
                let probe_number = get_u8(buf)?;
                let third = get_id(buf)?;
                match kind {
                    3 => Message::PingReq { target: third, probe_number },
                    4 => Message::IndirectPing { origin: third, probe_number },
                    5 => Message::IndirectAck { target: third, probe_number },
                    _ => Message::ForwardedAck { origin: third, probe_number },
                }
            }
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::Broadcast,
            11 => Message::TurnUndead,
            _ => return Err(NotAPacket),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Id>, mut buf: impl BufMut) -> Result<(), NotAPacket> {
        if buf.remaining_mut() < ID_BYTES + 3 {
            return Err(NotAPacket);
        }
        put_id(member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Id>, NotAPacket> {
        let buf = &mut buf;
        let id = get_id(buf)?;
        let incarnation = get_u16(buf)?;
        let state = match get_u8(buf)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(NotAPacket),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

/// Numbers that follow from a seed alone (splitmix64), for choices that nobody must be able to rely on.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }
}

impl rand_core::TryRng for Dice {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.number() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.number())
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        for part in into.chunks_mut(8) {
            part.copy_from_slice(&self.number().to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use foca::Codec as _;

    fn id(node: u16, life: u64, renewal: u32) -> Id {
        Id { node: NodeId(node), life, renewal }
    }

    #[test]
    fn later_lives_and_renewals_win() {
        assert!(id(1, 2, 0).win_addr_conflict(&id(1, 1, 9)));
        assert!(id(1, 2, 1).win_addr_conflict(&id(1, 2, 0)));
        assert!(!id(1, 2, 0).win_addr_conflict(&id(1, 2, 0)));
        assert_eq!(id(1, 2, 3).renew(), Some(id(1, 2, 4)));
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_refused() {
        let third = id(3, u64::MAX, 7);
        let messages = [
            Message::Ping(1),
            Message::Ack(255),
            Message::PingReq { target: third, probe_number: 4 },
            Message::IndirectPing { origin: third, probe_number: 4 },
            Message::IndirectAck { target: third, probe_number: 4 },
            Message::ForwardedAck { origin: third, probe_number: 4 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header { src: id(1, 5, 0), src_incarnation: 9, dst: id(2, 1, 1), message };
            let mut bytes = Vec::new();
            Codec.encode_header(&header, &mut bytes).unwrap();
            assert_eq!(Codec.decode_header(&bytes[..]), Ok(header));
            assert_eq!(bytes[INCARNATION_AT..INCARNATION_AT + 2], 9u16.to_be_bytes());
            for cut in 0..bytes.len() {
                assert_eq!(Codec.decode_header(&bytes[..cut]), Err(NotAPacket));
            }
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(third, 12, state);
            let mut bytes = Vec::new();
            Codec.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(Codec.decode_member(&bytes[..]), Ok(member));
            *bytes.last_mut().unwrap() = 3;
            assert_eq!(Codec.decode_member(&bytes[..]), Err(NotAPacket));
        }
    }
}
