//! Reading binaries: what is in a file, independent of any process.

pub mod unwind;
