//! A whole system in one thread under one seed.
