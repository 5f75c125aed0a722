//! Allocator functions found, probe points chosen, programs loaded and attached.

pub mod mappings;
