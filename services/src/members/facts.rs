//! What a node says about itself: small, soft, and good enough to place a process by. This file knows nothing of how it
//! spreads.
//!
//! The one idea: facts are replaced as a whole, by what is newer of the same node: a later life, or a later serial number of the
//! same life. Nothing has to be merged, and losing them costs a less good placement, never a wrong answer.

use abi::encoding::{Malformed, Reader, Writer};
use abi::ids::ProgramId;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest encoded form.
pub const FACTS_BYTES_MAX: usize = 400;
/// Of programs lately compiled, the latest are told.
pub const PROGRAMS_MAX: usize = 16;
/// Of a node's addresses, the first are told.
pub const ADDRESSES_MAX: usize = 4;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Processes that run or want to, in hundredths, over about the last second.
    pub load_hundredths: u32,
    pub processors: u16,
    pub memory_bytes: u64,
    pub memory_free_bytes: u64,
    pub architecture: Architecture,
    /// Compiled code moves between nodes where this is the same.
    pub engine: EngineHash,
    pub processes: u32,
    /// Programs whose code lies ready, the latest first.
    pub programs: Vec<ProgramMark>,
    pub profile: Profile,
    pub intake: Intake,
    /// Where the node listens now; the coordinator's record may be older.
    pub addresses: Vec<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Architecture {
    X86_64,
    Aarch64,
    Riscv64,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EngineHash(pub u64);

/// The first eight bytes of a program's hash: enough for a hint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProgramMark(pub u64);

impl From<&ProgramId> for ProgramMark {
    fn from(program: &ProgramId) -> ProgramMark {
        let [a, b, c, d, e, f, g, h, ..] = program.0;
        ProgramMark(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// What a machine is there for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Profile {
    /// Many people's; takes work all the time.
    Server,
    /// One person's; lends what its owner does not need.
    Workstation,
    /// Nobody's; takes anything.
    Pool,
}

/// Whether a node takes processes from others now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Intake {
    Open,
    /// A workstation whose owner is at it.
    OwnerPresent,
    /// It is being emptied.
    Draining,
    /// It said goodbye; this life ends.
    Leaving,
}

impl Facts {
    /// Of a node about which nothing is known yet.
    pub fn unknown() -> Facts {
        Facts {
            load_hundredths: 0,
            processors: 0,
            memory_bytes: 0,
            memory_free_bytes: 0,
            architecture: Architecture::Other,
            engine: EngineHash(0),
            processes: 0,
            programs: Vec::new(),
            profile: Profile::Server,
            intake: Intake::Open,
            addresses: Vec::new(),
        }
    }

    /// At most [`FACTS_BYTES_MAX`] bytes: what is too long of the lists is left out.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(self.load_hundredths).u32(self.processors.into()).u64(self.memory_bytes).u64(self.memory_free_bytes);
        writer.u8(self.architecture as u8).u64(self.engine.0).u32(self.processes);
        writer.u8(self.profile as u8).u8(self.intake as u8);
        let programs = &self.programs[..self.programs.len().min(PROGRAMS_MAX)];
        writer.u8(programs.len() as u8);
        for program in programs {
            writer.u64(program.0);
        }
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESSES_MAX)];
        writer.u8(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => writer.u8(4).raw(&ip.octets()),
                IpAddr::V6(ip) => writer.u8(6).raw(&ip.octets()),
            };
            writer.raw(&address.port().to_le_bytes());
        }
        let bytes = writer.finish();
        assert!(bytes.len() <= FACTS_BYTES_MAX, "the lists of facts are bounded so that they fit");
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Facts, Malformed> {
        let reader = &mut Reader::new(bytes);
        if bytes.len() > FACTS_BYTES_MAX {
            return Err(reader.malformed());
        }
        let load_hundredths = reader.u32()?;
        let processors = u16::try_from(reader.u32()?).map_err(|_| reader.malformed())?;
        let (memory_bytes, memory_free_bytes) = (reader.u64()?, reader.u64()?);
        let architecture = match reader.u8()? {
            0 => Architecture::X86_64,
            1 => Architecture::Aarch64,
            2 => Architecture::Riscv64,
            3 => Architecture::Other,
            _ => return Err(reader.malformed()),
        };
        let engine = EngineHash(reader.u64()?);
        let processes = reader.u32()?;
        let profile = match reader.u8()? {
            0 => Profile::Server,
            1 => Profile::Workstation,
            2 => Profile::Pool,
            _ => return Err(reader.malformed()),
        };
        let intake = match reader.u8()? {
            0 => Intake::Open,
            1 => Intake::OwnerPresent,
            2 => Intake::Draining,
            3 => Intake::Leaving,
            _ => return Err(reader.malformed()),
        };
        let count = usize::from(reader.u8()?);
        if count > PROGRAMS_MAX {
            return Err(reader.malformed());
        }
        let programs = (0..count).map(|_| reader.u64().map(ProgramMark)).collect::<Result<_, _>>()?;
        let count = usize::from(reader.u8()?);
        if count > ADDRESSES_MAX {
            return Err(reader.malformed());
        }
        let addresses = (0..count).map(|_| address(reader)).collect::<Result<_, _>>()?;
        let facts = Facts {
            load_hundredths,
            processors,
            memory_bytes,
            memory_free_bytes,
            architecture,
            engine,
            processes,
            programs,
            profile,
            intake,
            addresses,
        };
        core::mem::replace(reader, Reader::new(&[])).finish()?;
        Ok(facts)
    }

    /// Is `newer` worth telling everyone, though `self` was told a moment ago? Small movements of load and memory are not.
    pub(crate) fn differs_enough(&self, newer: &Facts) -> bool {
        let load = self.load_hundredths.abs_diff(newer.load_hundredths);
        let free = self.memory_free_bytes.abs_diff(newer.memory_free_bytes);
        let rest = |facts: &Facts| Facts { load_hundredths: 0, memory_free_bytes: 0, ..facts.clone() };
        load > 25 + self.load_hundredths / 5 || free > self.memory_bytes / 16 || rest(self) != rest(newer)
    }
}

fn address(reader: &mut Reader) -> Result<SocketAddr, Malformed> {
    let ip = match reader.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(reader.raw(4)?).expect("four bytes were taken"))),
        6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(reader.raw(16)?).expect("sixteen bytes were taken"))),
        _ => return Err(reader.malformed()),
    };
    let port = u16::from_le_bytes(reader.raw(2)?.try_into().expect("two bytes were taken"));
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_facts_fit_and_come_back() {
        let facts = Facts {
            load_hundredths: u32::MAX,
            processors: u16::MAX,
            memory_bytes: u64::MAX,
            memory_free_bytes: 1,
            architecture: Architecture::Other,
            engine: EngineHash(u64::MAX),
            processes: 7,
            programs: (0..PROGRAMS_MAX as u64).map(ProgramMark).collect(),
            profile: Profile::Pool,
            intake: Intake::Leaving,
            addresses: (0..ADDRESSES_MAX as u16)
                .map(|port| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port))
                .collect(),
        };
        let bytes = facts.encode();
        assert_eq!(Facts::decode(&bytes), Ok(facts.clone()));
        for cut in 0..bytes.len() {
            assert!(Facts::decode(&bytes[..cut]).is_err());
        }
        let mut longer = facts.clone();
        longer.programs.push(ProgramMark(99));
        assert_eq!(longer.encode(), bytes, "what is too long is left out");
        let mut more = bytes.clone();
        more.push(0);
        assert!(Facts::decode(&more).is_err());
    }

    #[test]
    fn only_what_matters_is_told_again() {
        let facts = Facts { memory_bytes: 1600, memory_free_bytes: 800, ..Facts::unknown() };
        let check = |change: fn(&mut Facts), expect: bool| {
            let mut newer = facts.clone();
            change(&mut newer);
            assert_eq!(facts.differs_enough(&newer), expect);
        };
        check(|_| {}, false);
        check(|facts| facts.load_hundredths += 25, false);
        check(|facts| facts.load_hundredths += 26, true);
        check(|facts| facts.memory_free_bytes -= 100, false);
        check(|facts| facts.memory_free_bytes -= 101, true);
        check(|facts| facts.intake = Intake::Draining, true);
        check(|facts| facts.processes += 1, true);
    }
}
