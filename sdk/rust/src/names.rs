//! Names of ports, as `/port/mine`: any process that knows one can send there. Knows how to ask; the system's service `names` answers.

use crate::{import, length, ok, Handle, Port, Result};

/// Gives the port this name.
pub fn bind(path: &str, port: &Port) -> Result<()> {
    bind_to(path, port, 0)
}

/// The same, also if another port has it.
pub fn rebind(path: &str, port: &Port) -> Result<()> {
    bind_to(path, port, 1)
}

fn bind_to(path: &str, port: &Port, replaces: u32) -> Result<()> {
    // SAFETY: the path is ours, of this length.
    ok(unsafe { import::name_bind(path.as_ptr(), length(path.as_bytes())?, port.handle().number(), replaces) })
}

/// Takes the name away.
pub fn unbind(path: &str) -> Result<()> {
    // SAFETY: the path is ours, of this length.
    ok(unsafe { import::name_unbind(path.as_ptr(), length(path.as_bytes())?) })
}

/// A handle to send to the port of this name.
pub fn lookup(path: &str) -> Result<Port> {
    let mut port = 0;
    // SAFETY: the path is ours, of this length, and so is the result's place.
    ok(unsafe { import::name_lookup(path.as_ptr(), length(path.as_bytes())?, &mut port) })?;
    Ok(Port::from_handle(Handle(port)))
}
