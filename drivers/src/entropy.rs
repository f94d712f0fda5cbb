//! The host's random numbers.

use crate::errno;
use abi::errno::Errno;
use abi::file::Entropy;
use rustix::rand::{GetRandomFlags, getrandom};

#[derive(Clone, Copy, Default, Debug)]
pub struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), Errno> {
        while !buffer.is_empty() {
            match getrandom(&mut *buffer, GetRandomFlags::empty()) {
                Ok(filled) => buffer = &mut buffer[filled..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(errno::of(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_large_buffer_is_filled() {
        let mut buffer = vec![0u8; (1 << 20) + 3];
        HostEntropy.fill(&mut buffer).unwrap();
        // That 32 bytes are zero by chance does not happen (2^-256).
        assert!(buffer.chunks(32).filter(|chunk| chunk.len() == 32).all(|chunk| chunk.iter().any(|byte| *byte != 0)));
        HostEntropy.fill(&mut []).unwrap();
    }
}
