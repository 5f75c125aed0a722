//! What memtrace's BPF programs and its userspace must agree on.
//!
//! Everything that crosses the kernel border has its layout here, `repr(C)`, with sizes and offsets
//! asserted at compile time. Nothing here allocates or calls the system.
#![no_std]

pub mod counter;
pub mod limits;
pub mod point;
pub mod record;
pub mod stack;
pub mod unwind;
