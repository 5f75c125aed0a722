//! Ring buffers → decoded events, in order, with exact loss counts.

mod decode;
pub mod event;
mod ring;

pub use decode::decode;
pub use ring::RingReader;
