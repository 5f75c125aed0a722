//! Allocator functions found, probe points chosen, programs loaded and attached.

pub mod attach;
pub mod mappings;
pub mod programs;
pub mod tables;
