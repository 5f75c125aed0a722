//! The recording on disk: written as it happens, readable after kill -9, standing alone.
//!
//! A recording is a sequence of flushes, about one a second, each holding what changed since the
//! one before. A [`Recorder`] collects, a [`Writer`] writes, [`read`] gives the [`Profile`] at the
//! last whole flush, exact to the byte, shares at the peak included. `format` describes the outer
//! layout and the promise to read older files, `record` what is inside.
//!
//! The file's size follows stacks, locations and time points, not events: when the changes outweigh
//! what they describe, the writer replaces the file by a compact one in one step.
//!
//! [`Profile`]: crate::profile::Profile

mod apply;
mod delta;
mod error;
mod format;
mod reader;
mod record;
mod recorder;
#[cfg(test)]
mod tests;
mod writer;

pub use delta::Delta;
pub use error::{Damage, ReadError, WriteError};
pub use format::VERSION;
pub use reader::{Ending, MEMORY_LIMIT_BYTES, Recording, read, read_from, read_recording};
pub use recorder::{Flushed, Recorder};
pub use writer::Writer;
