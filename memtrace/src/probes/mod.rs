//! Allocator functions found and probe points chosen; programs loaded and attached.

pub mod unwind;
