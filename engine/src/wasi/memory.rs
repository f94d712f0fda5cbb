//! A program's memory as its host sees it: bytes that the program owns, addresses that it made up. Knows no call.
//!
//! The one idea: every access is checked against the memory's end before anything is touched; an address that lies is answered
//! with [`Errno::Fault`], and the numbers of an array are multiplied where they cannot overflow.

use crate::pages::{PAGE, Presence};
use abi::errno::Errno;
use abi::wasi::iovec;

/// More buffers in one call are not looked at: the call reads or writes less than it could, as every such call may.
const BUFFERS_MAX: u32 = 1024;

/// Longer paths are refused before they are read.
const PATH_BYTES_MAX: u32 = 4096;

pub struct Memory<'a> {
    bytes: &'a mut [u8],
    presence: Option<&'a Presence>,
}

/// One of a call's buffers; it lies within the memory.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub address: u32,
    pub length: u32,
}

impl<'a> Memory<'a> {
    pub fn new(bytes: &'a mut [u8]) -> Memory<'a> {
        Memory { bytes, presence: None }
    }

    /// Of a process of whose pages some may be missing.
    pub(crate) fn of(bytes: &'a mut [u8], presence: &'a Presence) -> Memory<'a> {
        Memory { bytes, presence: presence.is_partial().then_some(presence) }
    }

    /// Waits until all of the range is there. A system call that met a missing page would fail, since Linux holds only programs at
    /// such pages, not itself.
    fn present(&self, range: std::ops::Range<usize>) -> Result<std::ops::Range<usize>, Errno> {
        let Some(presence) = self.presence else { return Ok(range) };
        for page in self.bytes[range.clone()].chunks(PAGE) {
            std::hint::black_box(page[0]);
        }
        // Chunks begin anywhere in a page: the last byte may be in one more.
        std::hint::black_box(self.bytes[range.clone()].last().copied());
        match presence.check() {
            Ok(()) => Ok(range),
            // The program does not get to see this: the call itself fails.
            Err(_) => Err(Errno::Fault),
        }
    }

    fn range(&self, address: u32, length: u64) -> Result<std::ops::Range<usize>, Errno> {
        let end = u64::from(address).checked_add(length).filter(|end| *end <= self.bytes.len() as u64);
        Ok(address as usize..end.ok_or(Errno::Fault)? as usize)
    }

    /// Fails if a later access to these bytes would: results are checked for before a call has effects.
    pub fn check(&self, address: u32, length: usize) -> Result<(), Errno> {
        self.range(address, length as u64).map(|_| ())
    }

    /// The same for an array.
    pub fn check_array(&self, address: u32, count: u32, size: u32) -> Result<(), Errno> {
        self.range(address, u64::from(count) * u64::from(size)).map(|_| ())
    }

    pub fn slice(&self, address: u32, length: u32) -> Result<&[u8], Errno> {
        Ok(&self.bytes[self.present(self.range(address, length.into())?)?])
    }

    pub fn slice_mut(&mut self, address: u32, length: u32) -> Result<&mut [u8], Errno> {
        let range = self.present(self.range(address, length.into())?)?;
        Ok(&mut self.bytes[range])
    }

    pub fn write(&mut self, address: u32, bytes: &[u8]) -> Result<(), Errno> {
        let range = self.range(address, bytes.len() as u64)?;
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }

    pub fn write_u32(&mut self, address: u32, value: u32) -> Result<(), Errno> {
        self.write(address, &value.to_le_bytes())
    }

    pub fn write_u64(&mut self, address: u32, value: u64) -> Result<(), Errno> {
        self.write(address, &value.to_le_bytes())
    }

    /// A path: UTF-8 without NUL, not empty.
    pub fn path(&self, address: u32, length: u32) -> Result<&str, Errno> {
        let range = self.range(address, length.into())?;
        if length > PATH_BYTES_MAX {
            return Err(Errno::NameTooLong);
        }
        let path = std::str::from_utf8(&self.bytes[self.present(range)?]).map_err(|_| Errno::IlSeq)?;
        if path.contains('\0') {
            return Err(Errno::Inval);
        }
        if path.is_empty() { Err(Errno::NoEnt) } else { Ok(path) }
    }

    /// The buffers of a reading or writing call, all checked.
    pub fn buffers(&self, array: u32, count: u32) -> Result<Vec<Buffer>, Errno> {
        self.check_array(array, count, iovec::SIZE)?;
        let mut total = 0u32;
        let mut buffers = vec![];
        for index in 0..count.min(BUFFERS_MAX) {
            let entry = self.slice(array + index * iovec::SIZE, iovec::SIZE)?;
            let buffer = Buffer {
                address: read_u32(entry, iovec::BUF as usize),
                length: read_u32(entry, iovec::BUF_LEN as usize),
            };
            self.check(buffer.address, buffer.length as usize)?;
            // The result could not say how much was read.
            total = total.checked_add(buffer.length).ok_or(Errno::Inval)?;
            if buffer.length > 0 {
                buffers.push(buffer);
            }
        }
        Ok(buffers)
    }
}

pub fn read_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

pub fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes were taken"))
}

pub fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes were taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lie_are_faults() {
        let mut bytes = [0u8; 64];
        let mut memory = Memory::new(&mut bytes);
        assert_eq!(memory.check(64, 0), Ok(()));
        assert_eq!(memory.check(65, 0), Err(Errno::Fault));
        assert_eq!(memory.check(u32::MAX, 1), Err(Errno::Fault));
        assert_eq!(memory.check_array(0, u32::MAX, u32::MAX), Err(Errno::Fault));
        assert_eq!(memory.check_array(0, 8, 8), Ok(()));
        assert_eq!(memory.check_array(1, 8, 8), Err(Errno::Fault));
        assert_eq!(memory.write_u64(57, 0), Err(Errno::Fault));
        assert_eq!(memory.write_u64(56, 0), Ok(()));
        assert_eq!(memory.slice(u32::MAX, u32::MAX), Err(Errno::Fault));
    }

    #[test]
    fn paths_are_checked() {
        let mut bytes = *b"ab/c\0\xff\xfe";
        let memory = Memory::new(&mut bytes);
        assert_eq!(memory.path(0, 4), Ok("ab/c"));
        assert_eq!(memory.path(0, 5), Err(Errno::Inval));
        assert_eq!(memory.path(5, 2), Err(Errno::IlSeq));
        assert_eq!(memory.path(0, 0), Err(Errno::NoEnt));
        assert_eq!(memory.path(3, 100), Err(Errno::Fault));
        let mut bytes = vec![b'a'; 5000];
        let memory = Memory::new(&mut bytes);
        assert_eq!(memory.path(0, 4096).map(str::len), Ok(4096));
        assert_eq!(memory.path(0, 4097), Err(Errno::NameTooLong));
    }

    #[test]
    fn buffers_are_checked_before_use() {
        let mut bytes = vec![0u8; 65536];
        let mut memory = Memory::new(&mut bytes);
        for (index, (address, length)) in [(0u32, 4u32), (100, 0), (65536 - 8, 8)].into_iter().enumerate() {
            memory.write_u32(1000 + index as u32 * 8, address).unwrap();
            memory.write_u32(1004 + index as u32 * 8, length).unwrap();
        }
        assert_eq!(memory.buffers(1000, 3).unwrap().len(), 2);
        assert_eq!(memory.buffers(1000, u32::MAX).err(), Some(Errno::Fault));
        assert_eq!(memory.buffers(2000, 5000).unwrap().len(), 0);
        memory.write_u32(1020, 9).unwrap();
        assert_eq!(memory.buffers(1000, 3).err(), Some(Errno::Fault));
        assert_eq!(memory.buffers(1000, 2).unwrap().len(), 1);
    }

    #[test]
    fn a_total_that_cannot_be_said_is_refused() {
        // A memory of more than 2 GiB costs nothing as long as it is not touched.
        let mut bytes = vec![0u8; 1 << 31];
        let mut memory = Memory::new(&mut bytes);
        for index in 0..3 {
            memory.write_u32(index * 8 + 4, 1 << 30).unwrap();
        }
        assert_eq!(memory.buffers(0, 3).unwrap().len(), 3);
        memory.write_u32(28, 1 << 30).unwrap();
        assert_eq!(memory.buffers(0, 4).err(), Some(Errno::Inval));
    }
}
