//! memtrace: an eBPF tracer for Linux memory.
//!
//! The modules are the rooms of the house, in the order in which an event passes them; each may use
//! those above it in this list and none below.

pub mod kernel;

pub mod process;

pub mod target;

pub mod elf;

pub mod stream;

pub mod probes;

pub mod profile;

pub mod heap;

pub mod file;

pub mod symbols;

pub mod report;

pub mod export;

pub mod session;

pub mod cli;
