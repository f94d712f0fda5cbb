//! What measured programs may ask for: a WASI host that keeps everything in memory, the same for every variant. Knows nothing
//! of freezing.
//!
//! The one idea: a host call costs the same next to nothing for all variants, so that what is measured is the code.

use wasmtime::{Caller, Error, Extern, Linker, Module};

/// The state of one run.
#[derive(Default)]
pub struct Host {
    arguments: Vec<String>,
    pub output: Vec<u8>,
    errors: Vec<u8>,
    status: Option<i32>,
}

/// A program's way of ending: `proc_exit`.
#[derive(Debug)]
struct Exited;

impl std::fmt::Display for Exited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the program called proc_exit")
    }
}

impl std::error::Error for Exited {}

impl Host {
    pub fn new(arguments: &[String]) -> Host {
        Host { arguments: arguments.to_vec(), ..Host::default() }
    }

    /// A call that came back with an error may be a program that ended; anything else is a failure of the benchmark.
    pub fn ended<T>(&self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is::<Exited>() && self.status == Some(0) => Ok(None),
            Err(error) => {
                let errors = String::from_utf8_lossy(&self.errors).into_owned();
                Err(error.context(format!("the program failed with status {:?}: {errors}", self.status)))
            }
        }
    }
}

const SUCCESS: i32 = 0;
const BAD_DESCRIPTOR: i32 = 8;
const NO_ENTRY: i32 = 44;
const NOT_SEEKABLE: i32 = 70;

type Guest<'a> = Caller<'a, Host>;

fn memory<'a>(guest: &'a mut Guest<'_>) -> Result<(&'a mut [u8], &'a mut Host), Error> {
    let memory = guest.get_export("memory").and_then(Extern::into_memory);
    let memory = memory.ok_or_else(|| Error::msg("the program exports no memory"))?;
    Ok(memory.data_and_store_mut(guest))
}

fn part(memory: &mut [u8], at: u32, length: u32) -> Result<&mut [u8], Error> {
    let range = at as usize..at as usize + length as usize;
    memory.get_mut(range).ok_or_else(|| Error::msg("the program gave a place outside its memory"))
}

fn write_word(memory: &mut [u8], at: u32, word: u32) -> Result<(), Error> {
    part(memory, at, 4)?.copy_from_slice(&word.to_le_bytes());
    Ok(())
}

fn read_word(memory: &mut [u8], at: u32) -> Result<u32, Error> {
    Ok(u32::from_le_bytes(part(memory, at, 4)?.try_into().expect("four bytes were asked for")))
}

/// Everything that `module` imports; what the measured programs never call traps.
pub fn linker(module: &Module) -> Result<Linker<Host>, Error> {
    const WASI: &str = "wasi_snapshot_preview1";
    let mut linker: Linker<Host> = Linker::new(module.engine());
    linker.func_wrap(WASI, "args_sizes_get", |mut guest: Guest<'_>, count: u32, size: u32| {
        let (memory, host) = memory(&mut guest)?;
        write_word(memory, count, host.arguments.len() as u32)?;
        write_word(memory, size, host.arguments.iter().map(|argument| argument.len() as u32 + 1).sum())?;
        Ok(SUCCESS)
    })?;
    linker.func_wrap(WASI, "args_get", |mut guest: Guest<'_>, pointers: u32, text: u32| {
        let (memory, host) = memory(&mut guest)?;
        let mut at = text;
        for (index, argument) in host.arguments.iter().enumerate() {
            write_word(memory, pointers + 4 * index as u32, at)?;
            part(memory, at, argument.len() as u32)?.copy_from_slice(argument.as_bytes());
            part(memory, at + argument.len() as u32, 1)?[0] = 0;
            at += argument.len() as u32 + 1;
        }
        Ok(SUCCESS)
    })?;
    linker.func_wrap(WASI, "environ_sizes_get", |mut guest: Guest<'_>, count: u32, size: u32| {
        let (memory, _) = memory(&mut guest)?;
        write_word(memory, count, 0)?;
        write_word(memory, size, 0)?;
        Ok(SUCCESS)
    })?;
    linker.func_wrap(WASI, "environ_get", |_: u32, _: u32| SUCCESS)?;
    linker.func_wrap(
        WASI,
        "fd_write",
        |mut guest: Guest<'_>, descriptor: u32, pieces: u32, count: u32, written: u32| {
            let (memory, host) = memory(&mut guest)?;
            let mut total = 0;
            for piece in 0..count {
                let (at, length) = (read_word(memory, pieces + 8 * piece)?, read_word(memory, pieces + 8 * piece + 4)?);
                let stream = if descriptor == 2 { &mut host.errors } else { &mut host.output };
                stream.extend_from_slice(part(memory, at, length)?);
                total += length;
            }
            write_word(memory, written, total)?;
            Ok(SUCCESS)
        },
    )?;
    linker.func_wrap(WASI, "fd_read", |mut guest: Guest<'_>, _: u32, _: u32, _: u32, read: u32| {
        write_word(memory(&mut guest)?.0, read, 0)?;
        Ok(SUCCESS)
    })?;
    linker.func_wrap(WASI, "fd_fdstat_get", |mut guest: Guest<'_>, descriptor: u32, at: u32| {
        let stat = part(memory(&mut guest)?.0, at, 24)?;
        stat.fill(0);
        // A character device, or nothing.
        stat[0] = 2;
        Ok(if descriptor < 3 { SUCCESS } else { BAD_DESCRIPTOR })
    })?;
    linker.func_wrap(WASI, "fd_filestat_get", |mut guest: Guest<'_>, descriptor: u32, at: u32| {
        let stat = part(memory(&mut guest)?.0, at, 64)?;
        stat.fill(0);
        stat[16] = 2;
        Ok(if descriptor < 3 { SUCCESS } else { BAD_DESCRIPTOR })
    })?;
    linker.func_wrap(WASI, "clock_time_get", |mut guest: Guest<'_>, _: u32, _: u64, at: u32| {
        part(memory(&mut guest)?.0, at, 8)?.copy_from_slice(&1_000_000_000u64.to_le_bytes());
        Ok(SUCCESS)
    })?;
    linker.func_wrap(WASI, "random_get", |mut guest: Guest<'_>, at: u32, length: u32| {
        part(memory(&mut guest)?.0, at, length)?.fill(7);
        Ok(SUCCESS)
    })?;
    linker.func_wrap(WASI, "fd_prestat_get", |_: u32, _: u32| BAD_DESCRIPTOR)?;
    linker.func_wrap(WASI, "fd_seek", |_: u32, _: u64, _: u32, _: u32| NOT_SEEKABLE)?;
    linker.func_wrap(WASI, "fd_close", |_: u32| SUCCESS)?;
    linker.func_wrap(WASI, "path_filestat_get", |_: u32, _: u32, _: u32, _: u32, _: u32| NO_ENTRY)?;
    linker.func_wrap(WASI, "path_open", |_: u32, _: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32, _: u32| {
        NO_ENTRY
    })?;
    linker.func_wrap(WASI, "proc_exit", |mut guest: Guest<'_>, status: i32| -> Result<(), Error> {
        guest.data_mut().status = Some(status);
        Err(Error::new(Exited))
    })?;
    linker.define_unknown_imports_as_traps(module)?;
    Ok(linker)
}
