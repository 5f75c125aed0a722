//! A [`Profile`](crate::profile::Profile) for other tools: folded stacks for any flame graph
//! program, and an interactive SVG.
//!
//! Both are made of the same tree of stacks, so they show the same names and amounts.

mod folded;
mod names;
mod svg;

pub use folded::{FoldedStacks, write_folded};
pub use svg::{SvgError, write_svg};
