//! How the messages of interfaces become bytes. This file knows no interface.
//!
//! The one idea: little-endian numbers and length-prefixed strings, written in order; a reader trusts nothing, and a message
//! with anything left over is malformed.

use alloc::string::String;
use alloc::vec::Vec;

/// The bytes are not a message of this interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Malformed {
    /// Where reading stopped.
    pub at: usize,
}

/// Appends values.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn u8(&mut self, value: u8) -> &mut Writer {
        self.bytes.push(value);
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Writer {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Writer {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A length of 32 bits, then the bytes.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Writer {
        let length = u32::try_from(value.len()).expect("one field is shorter than 4 GiB");
        self.u32(length);
        self.bytes.extend_from_slice(value);
        self
    }

    /// The bytes alone; the reader must know how many.
    pub fn raw(&mut self, value: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(value);
        self
    }

    pub fn finish(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.bytes)
    }
}

/// Takes values off the front.
pub struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(all: &'a [u8]) -> Reader<'a> {
        Reader { all, at: 0 }
    }

    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let rest = &self.all[self.at..];
        if rest.len() < length {
            return Err(self.malformed());
        }
        self.at += length;
        Ok(&rest[..length])
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.raw(1)?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.raw(4)?.try_into().expect("four bytes were taken")))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.raw(8)?.try_into().expect("eight bytes were taken")))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.raw(usize::try_from(length).map_err(|_| self.malformed())?)
    }

    pub fn string(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes()?;
        core::str::from_utf8(bytes).map(String::from).map_err(|_| self.malformed())
    }

    pub fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }

    /// Nothing may be left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.at == self.all.len() { Ok(()) } else { Err(self.malformed()) }
    }
}
