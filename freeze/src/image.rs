//! The stopped process as bytes.
