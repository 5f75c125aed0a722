//! One read of a binary: build id, segments, symbols, links to debug information.
//!
//! Input is hostile: it comes from whatever a target has mapped. Nothing here panics on it, and
//! memory stays bounded by the limits that the items state.

mod debuglink;
mod error;
mod functions;
mod headers;
mod image;
mod linkage;
mod minidebug;
mod plt;
pub mod prologue;
pub mod unwind;

pub use debuglink::{AltLink, DebugLink, alt_link, debug_link};
pub use error::ElfError;
pub use functions::{Binding, FunctionSymbol, Table, functions};
pub use headers::{BuildId, Headers, Segment, build_id};
pub use image::Image;
pub(crate) use image::Stamp;
pub use linkage::{Linkage, linkage};
pub use minidebug::mini_debug_info;
pub use plt::plt_stubs;
