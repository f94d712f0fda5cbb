//! What the services understand, one file per service. A service is called like anything else: by a message to a port.

pub mod names;
pub mod programs;
pub mod registrar;
