//! The 46 functions as wasmtime calls them. The only file of `wasi` that knows wasmtime and the freezer.
//!
//! The one idea: a call that must wait waits here; if a freeze is asked for meanwhile, its frame is unwound with the rest of the
//! stack, and it is issued again when the process is continued.

use super::memory::Memory;
use super::process::raise;
use super::{Exit, Progress, System};
use crate::process::State;
use abi::call::SystemCall;
use abi::errno::Errno;
use abi::file::Wake;
use abi::ids::Time;
use wasmtime::{Caller, Error, Extern, Linker};

const MODULE: &str = "wasi_snapshot_preview1";

macro_rules! calls {
    (
        at once { $($name:ident($($argument:ident: $ty:ty),*);)* }
        may wait { $($waiting:ident($($given:ident: $kind:ty),*);)* }
    ) => {
        /// Defines all of WASI preview 1 for processes that have a thread of their own.
        pub fn link(linker: &mut Linker<State>) -> Result<(), Error> {
            link_at_once(linker)?;
            $(linker.func_wrap(MODULE, stringify!($waiting), |mut caller: Caller<'_, State>, $($given: $kind),*| {
                complete(&mut caller, |system, memory| system.$waiting(memory, $($given),*).map(Progress::from))
            })?;)*
            Ok(())
        }

        /// The same for processes on fibers: whoever waits gives the thread away.
        pub fn link_on_fibers(linker: &mut Linker<State>) -> Result<(), Error> {
            link_at_once(linker)?;
            $(linker.func_wrap_async(MODULE, stringify!($waiting),
                |mut caller: Caller<'_, State>, ($($given,)*): ($($kind,)*)| Box::new(async move {
                    let call = |system: &mut System, memory: &mut Memory| {
                        system.$waiting(memory, $($given),*).map(Progress::from)
                    };
                    complete_on_fiber(&mut caller, call).await
                }))?;)*
            Ok(())
        }

        fn link_at_once(linker: &mut Linker<State>) -> Result<(), Error> {
            $(linker.func_wrap(MODULE, stringify!($name), |mut caller: Caller<'_, State>, $($argument: $ty),*| {
                complete(&mut caller, |system, memory| system.$name(memory, $($argument),*).map(Progress::from))
            })?;)*
            linker.func_wrap(MODULE, "proc_exit", |code: u32| -> Result<(), Error> { Err(Error::new(Exit(code))) })?;
            linker.func_wrap(MODULE, "proc_raise", |signal: u32| -> Result<u32, Error> {
                match raise(signal) {
                    Ok(Ok(())) => Ok(0),
                    Ok(Err(exit)) => Err(Error::new(exit)),
                    Err(errno) => Ok(errno.raw().into()),
                }
            })?;
            Ok(())
        }

        const NAMES: &[&str] = &[$(stringify!($name),)* $(stringify!($waiting),)* "proc_exit", "proc_raise"];
    };
}

calls! {
    at once {
        args_get(pointers: u32, buffer: u32);
        args_sizes_get(count: u32, bytes: u32);
        environ_get(pointers: u32, buffer: u32);
        environ_sizes_get(count: u32, bytes: u32);
        clock_res_get(id: u32, result: u32);
        clock_time_get(id: u32, lag_ns: u64, result: u32);
        fd_advise(fd: u32, offset: u64, length: u64, advice: u32);
        fd_allocate(fd: u32, offset: u64, length: u64);
        fd_close(fd: u32);
        fd_datasync(fd: u32);
        fd_fdstat_get(fd: u32, result: u32);
        fd_fdstat_set_flags(fd: u32, flags: u32);
        fd_fdstat_set_rights(fd: u32, rights: u64, inheriting: u64);
        fd_filestat_get(fd: u32, result: u32);
        fd_filestat_set_size(fd: u32, size_bytes: u64);
        fd_filestat_set_times(fd: u32, accessed_ns: u64, modified_ns: u64, flags: u32);
        fd_pread(fd: u32, iovs: u32, count: u32, offset: u64, result: u32);
        fd_prestat_get(fd: u32, result: u32);
        fd_prestat_dir_name(fd: u32, buffer: u32, length: u32);
        fd_pwrite(fd: u32, iovs: u32, count: u32, offset: u64, result: u32);
        fd_readdir(fd: u32, buffer: u32, length: u32, cookie: u64, result: u32);
        fd_renumber(from: u32, to: u32);
        fd_seek(fd: u32, delta: i64, whence: u32, result: u32);
        fd_sync(fd: u32);
        fd_tell(fd: u32, result: u32);
        path_create_directory(fd: u32, path: u32, length: u32);
        path_filestat_get(fd: u32, lookup: u32, path: u32, length: u32, result: u32);
        path_filestat_set_times(fd: u32, lookup: u32, path: u32, length: u32, accessed_ns: u64, modified_ns: u64, flags: u32);
        path_link(from_fd: u32, lookup: u32, from: u32, from_length: u32, to_fd: u32, to: u32, to_length: u32);
        path_open(fd: u32, lookup: u32, path: u32, length: u32, oflags: u32, rights: u64, inheriting: u64, fdflags: u32, result: u32);
        path_readlink(fd: u32, path: u32, length: u32, buffer: u32, room: u32, result: u32);
        path_remove_directory(fd: u32, path: u32, length: u32);
        path_rename(from_fd: u32, from: u32, from_length: u32, to_fd: u32, to: u32, to_length: u32);
        path_symlink(content: u32, content_length: u32, fd: u32, path: u32, length: u32);
        path_unlink_file(fd: u32, path: u32, length: u32);
        random_get(buffer: u32, length: u32);
        sock_shutdown(fd: u32, how: u32);
    }
    may wait {
        fd_read(fd: u32, iovs: u32, count: u32, result: u32);
        fd_write(fd: u32, iovs: u32, count: u32, result: u32);
        poll_oneoff(subscriptions: u32, events: u32, count: u32, result: u32);
        sched_yield();
        sock_accept(fd: u32, flags: u32, result: u32);
        sock_recv(fd: u32, iovs: u32, count: u32, flags: u32, bytes: u32, received: u32);
        sock_send(fd: u32, iovs: u32, count: u32, flags: u32, bytes: u32);
    }
}

/// Is this a function that [`link`] defines?
pub fn provides(module: &str, name: &str) -> bool {
    module == MODULE && NAMES.contains(&name)
}

/// Issues a call until it is done, has failed, or is to be issued by another process.
fn complete(
    caller: &mut Caller<'_, State>, call: impl Fn(&mut System, &mut Memory) -> Result<Progress, Errno>,
) -> Result<u32, Error> {
    let memory = memory_of(caller);
    loop {
        caller.data().presence.check()?;
        let issued = issue(caller, memory, &call);
        let is_put_off = caller.data_mut().system.is_put_off();
        // What a call was given may have been void.
        caller.data().presence.check()?;
        let wait = match issued {
            Ok(Progress::Done) => return Ok(0),
            Ok(Progress::Wait(wait)) => wait,
            Err(_) if is_put_off => {
                freeze::interrupt(caller)?;
                return Ok(0);
            }
            Err(errno) => return Ok(errno.raw().into()),
        };
        match caller.data_mut().system.wait(&wait) {
            Ok(Wake::Perhaps) => {}
            Ok(Wake::Interrupted) => {
                freeze::interrupt(caller)?;
                return Ok(0);
            }
            Err(errno) => return Ok(errno.raw().into()),
        }
    }
}

/// The same on a fiber: the process sleeps as far as its kernel is concerned.
async fn complete_on_fiber(
    caller: &mut Caller<'_, State>, call: impl Fn(&mut System, &mut Memory) -> Result<Progress, Errno>,
) -> Result<u32, Error> {
    let memory = memory_of(caller);
    loop {
        caller.data().presence.check()?;
        let issued = issue(caller, memory, &call);
        let is_put_off = caller.data_mut().system.is_put_off();
        // What a call was given may have been void.
        caller.data().presence.check()?;
        let wait = match issued {
            Ok(Progress::Done) => return Ok(0),
            Ok(Progress::Wait(wait)) => wait,
            Err(_) if is_put_off => {
                freeze::interrupt(caller)?;
                return Ok(0);
            }
            Err(errno) => return Ok(errno.raw().into()),
        };
        let timeout_ns = match caller.data_mut().system.watch(&wait) {
            Ok(timeout_ns) => timeout_ns,
            Err(errno) => return Ok(errno.raw().into()),
        };
        let state = caller.data_mut();
        let until = timeout_ns.map_or(Time(u64::MAX), |timeout_ns| state.now().after(timeout_ns));
        state.system_call(SystemCall::Sleep { until }).await;
        match caller.data_mut().system.roused() {
            Wake::Perhaps => {}
            Wake::Interrupted => {
                freeze::interrupt(caller)?;
                return Ok(0);
            }
        }
    }
}

/// The program's memory, found by its name once: that would cost a good part of a short call.
pub(crate) fn memory_of(caller: &mut Caller<'_, State>) -> Option<wasmtime::Memory> {
    if caller.data().memory.is_none() {
        caller.data_mut().memory = caller.get_export("memory").and_then(Extern::into_memory);
    }
    caller.data().memory
}

fn issue(
    caller: &mut Caller<'_, State>, memory: Option<wasmtime::Memory>,
    call: &impl Fn(&mut System, &mut Memory) -> Result<Progress, Errno>,
) -> Result<Progress, Errno> {
    match memory {
        Some(memory) => {
            let (bytes, state) = memory.data_and_store_mut(&mut *caller);
            call(&mut state.system, &mut Memory::of(bytes, &state.presence))
        }
        // Every address is outside of it.
        None => call(&mut caller.data_mut().system, &mut Memory::new(&mut [])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_46_functions() {
        assert_eq!(NAMES.len(), 46);
        assert!(provides(MODULE, "fd_read") && provides(MODULE, "proc_raise"));
        assert!(!provides(MODULE, "fd_dup") && !provides("wasi_unstable", "fd_read"));
    }
}
