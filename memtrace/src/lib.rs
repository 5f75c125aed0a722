//! memtrace: an eBPF tracer for Linux memory.
//!
//! The modules are the rooms of the house, in the order in which an event passes them; each may use
//! those above it in this list and none below.

pub mod elf;
pub mod probes;
pub mod profile;
pub mod stream;
