//! Ring buffers → decoded events, in order, with exact loss counts.

pub mod event;
