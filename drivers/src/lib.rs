//! The only part of una that touches Linux.
