//! One command's stages, wired together: reads like the drawing in docs/design.md.

pub mod record;
