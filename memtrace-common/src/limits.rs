//! Sizes of the maps and loops that both sides must agree on.

/// Deepest user stack that is recorded, in frames. A deeper stack keeps its innermost frames and
/// ends as [`StackEnd::DepthLimit`](crate::stack::StackEnd::DepthLimit).
pub const MAX_FRAMES: usize = 128;

/// Threads that can be inside or between allocator calls at the same time. Beyond it events are
/// dropped and counted in [`Counter::ThreadTableFull`](crate::counter::Counter::ThreadTableFull).
pub const MAX_THREADS: u32 = 65_536;

/// Distinct stacks the kernel remembers as already sent. Beyond it a stack is sent again, which
/// costs ring space but loses nothing.
pub const MAX_KNOWN_STACKS: u32 = 262_144;

/// Processes that can be recorded at the same time.
pub const MAX_PROCESSES: u32 = 16_384;

/// Probe point tables: one per group of entry points whose low 12 address bits don't collide.
pub const POINT_TABLES: usize = 4;

/// Entries of one probe point table: an offset inside a page tells the point, since a mapping is
/// page-aligned and so `ip & 0xfff` equals `file_offset & 0xfff`.
pub const POINTS_PER_TABLE: usize = 4096;
