//! The processor of una.
