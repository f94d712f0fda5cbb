//! Arguments, environment, clocks, random numbers, and the end of a process.

use super::memory::Memory;
use super::{Exit, System};
use abi::errno::Errno;
use abi::wasi::{Clockid, Signal};

impl System {
    pub fn args_get(&mut self, memory: &mut Memory, pointers: u32, buffer: u32) -> Result<(), Errno> {
        write_strings(memory, &self.args, pointers, buffer)
    }

    pub fn args_sizes_get(&mut self, memory: &mut Memory, count: u32, bytes: u32) -> Result<(), Errno> {
        write_sizes(memory, &self.args, count, bytes)
    }

    pub fn environ_get(&mut self, memory: &mut Memory, pointers: u32, buffer: u32) -> Result<(), Errno> {
        write_strings(memory, &self.env, pointers, buffer)
    }

    pub fn environ_sizes_get(&mut self, memory: &mut Memory, count: u32, bytes: u32) -> Result<(), Errno> {
        write_sizes(memory, &self.env, count, bytes)
    }

    pub fn clock_res_get(&mut self, memory: &mut Memory, id: u32, result: u32) -> Result<(), Errno> {
        let id = Clockid::from_raw(id).ok_or(Errno::Inval)?;
        memory.write_u64(result, self.clock.resolution_ns(id).max(1))
    }

    pub fn clock_time_get(&mut self, memory: &mut Memory, id: u32, _lag_ns: u64, result: u32) -> Result<(), Errno> {
        let id = Clockid::from_raw(id).ok_or(Errno::Inval)?;
        let time_ns = self.time_ns(id);
        memory.write_u64(result, time_ns)
    }

    /// What a clock says to the program. It has one thread, so that thread's time is the process's.
    pub(super) fn time_ns(&self, id: Clockid) -> u64 {
        match id {
            Clockid::Realtime => self.clock.realtime_ns(),
            Clockid::Monotonic => self.now_ns(),
            Clockid::ProcessCputime | Clockid::ThreadCputime => self.cputime.own_ns(self.clock.cputime_ns()),
        }
    }

    pub fn random_get(&mut self, memory: &mut Memory, buffer: u32, length: u32) -> Result<(), Errno> {
        self.entropy.fill(memory.slice_mut(buffer, length)?)
    }

    /// The program has one thread; others of the host may run.
    pub fn sched_yield(&mut self, _: &mut Memory) -> Result<(), Errno> {
        std::thread::yield_now();
        Ok(())
    }
}

/// What a signal that a program sends itself does: there are no handlers, so it is the signal's default action.
pub(super) fn raise(signal: u32) -> Result<Result<(), Exit>, Errno> {
    let signal = u8::try_from(signal).ok().and_then(Signal::from_raw).ok_or(Errno::Inval)?;
    match signal {
        Signal::None | Signal::Chld | Signal::Cont | Signal::Urg | Signal::Winch => Ok(Ok(())),
        // Who would continue it?
        Signal::Stop | Signal::Tstp | Signal::Ttin | Signal::Ttou => Err(Errno::NotSup),
        // The code by which shells report a process that a signal ended.
        signal => Ok(Err(Exit(128 + u32::from(signal.raw())))),
    }
}

fn bytes_of(strings: &[String]) -> u32 {
    strings.iter().map(|string| string.len() as u32 + 1).sum()
}

fn write_sizes(memory: &mut Memory, strings: &[String], count: u32, bytes: u32) -> Result<(), Errno> {
    memory.write_u32(count, strings.len() as u32)?;
    memory.write_u32(bytes, bytes_of(strings))
}

fn write_strings(memory: &mut Memory, strings: &[String], pointers: u32, buffer: u32) -> Result<(), Errno> {
    memory.check_array(pointers, strings.len() as u32, 4)?;
    memory.check(buffer, bytes_of(strings) as usize)?;
    let mut at = buffer;
    for (index, string) in strings.iter().enumerate() {
        memory.write_u32(pointers + 4 * index as u32, at)?;
        memory.write(at, string.as_bytes())?;
        at += string.len() as u32;
        memory.write(at, &[0])?;
        // The last string may end where the addresses do.
        at = at.wrapping_add(1);
    }
    Ok(())
}
