//! Allocator functions found, probe points chosen, programs loaded and attached.

mod allocators;
pub mod attach;
pub mod launch;
mod ld_cache;
mod link_map;
pub mod mappings;
mod module;
pub mod points;
pub mod programs;
pub mod running;
pub mod tables;
pub mod unwind;
pub mod watchdog;
