//! A [`Profile`](crate::profile::Profile) for people: text in the spirit of `heaptrack_print`, and
//! the same numbers as JSON.
//!
//! ```text
//! Profile ─▶ filter (which stacks) ─▶ sites (merged by call site) ─▶ text
//!                                  └▶ stacks, sorted ──────────────▶ json
//! ```
//!
//! Nothing here fails on odd profiles: indices out of range read as unknown names, sums saturate.

pub mod escape;
pub mod filter;
pub mod frames;
pub mod json;
mod losses;
mod metric;
pub mod sites;
mod style;
pub mod text;
pub mod units;
pub mod wrappers;

#[cfg(test)]
mod large;
#[cfg(test)]
pub(crate) mod testing;

pub use filter::Filter;
pub use json::{JsonOptions, write_json};
pub use metric::Metric;
pub use text::{TextOptions, write_text};
