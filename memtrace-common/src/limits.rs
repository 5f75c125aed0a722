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

/// Value of a recorded process, in the map of those, that is to be stopped at its first allocation
/// until the unwinder knows its mappings. Other values mean nothing.
pub const HOLD_UNTIL_KNOWN: u32 = 2;

/// Probe point tables: one per group of entry points whose low 12 address bits don't collide.
pub const POINT_TABLES: usize = 4;

/// Entries of one probe point table: an offset inside a page tells the point, since a mapping is
/// page-aligned and so `ip & 0xfff` equals `file_offset & 0xfff`.
pub const POINTS_PER_TABLE: usize = 4096;

/// Words of unwind rows, two rows each. Beyond it a binary has no table: its frames end as
/// [`StackEnd::NoUnwindInfo`](crate::stack::StackEnd::NoUnwindInfo) unless they keep frame pointers.
pub const UNWIND_ROW_WORDS: u32 = 4 << 20;

/// Entries of the unwind page index, one per KiB of text.
pub const UNWIND_PAGES: u32 = 1 << 20;

/// Distinct unwind rules over all binaries; their ids are 16 bits.
pub const UNWIND_RULES: u32 = 1 << 16;

/// Executable mappings over all processes.
pub const UNWIND_MAPPINGS: u32 = 1 << 17;

/// Entries of the cache from addresses to rules; a power of two.
pub const UNWIND_CACHE: u32 = 1 << 14;

/// Threads that can be unwinding (running or preempted in it) at the same time; a power of two.
pub const UNWIND_SCRATCHES: u32 = 512;
