//! The result of a recording, as plain data: who allocated what from where.
//!
//! A [`Profile`] needs no process, no kernel and no privilege. It is filled from a recording on
//! disk and read by `report` and `export`. [`Tables`] and [`Timeline`] are its growing parts while
//! a recording is under way.
//!
//! Tables refer to each other by index (`u32`): a stack lists locations, a location lies in a module
//! and has one line per inlined function, names are in `strings`.

mod check;
pub(crate) mod dirty;
mod losses;
mod tables;
mod timeline;

use serde::{Deserialize, Serialize};

pub use check::Inconsistent;
pub use losses::Losses;
pub(crate) use tables::cut;
pub use tables::{MAX_LINES, MAX_STRING_BYTES, Tables};
pub use timeline::{MAX_TIME_POINTS, Timeline};

/// Index into [`Profile::strings`].
pub type StringId = u32;
/// Index into [`Profile::modules`].
pub type ModuleId = u32;
/// Index into [`Profile::locations`].
pub type LocationId = u32;
/// Index into [`Profile::stacks`] and [`Profile::costs`].
pub type StackId = u32;

/// Everything that is known about one recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub meta: Meta,
    /// False when the recording has no closing chunk: memtrace was killed or the disk ran full.
    pub complete: bool,
    pub strings: Vec<String>,
    pub modules: Vec<Module>,
    pub locations: Vec<Location>,
    pub stacks: Vec<Stack>,
    /// One per stack, same index.
    pub costs: Vec<Cost>,
    pub totals: Totals,
    pub losses: Losses,
    /// In time order.
    pub timeline: Vec<TimePoint>,
    pub processes: Vec<Process>,
    pub threads: Vec<Thread>,
    /// Requested sizes of successful allocations, all stacks together.
    pub sizes: SizeHistogram,
}

/// How, when and where the recording was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// `memtrace --version` of the recorder.
    pub memtrace_version: String,
    /// Command line of the target (the first one, when there are several).
    pub command: Vec<String>,
    /// True when the target ran already: blocks allocated before are unknown.
    pub attached: bool,
    /// True when the recorder stopped the target rather than lose events.
    pub lossless: bool,
    /// `uname -r`.
    pub kernel: String,
    pub hostname: String,
    /// Wall-clock start, milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Bytes a page.
    pub page_size: u64,
    /// RAM of the machine in bytes.
    pub memory_bytes: u64,
    /// "eh_frame" or "frame-pointer".
    pub unwinder: String,
    /// Number of probe points, entries and returns counted singly.
    pub probes: u32,
}

/// A file that code was loaded from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Module {
    /// As the target saw it, e.g. `/usr/lib/x86_64-linux-gnu/libc.so.6`, `[vdso]`.
    pub path: StringId,
    /// Lower-case hex of the GNU build id, empty when there is none.
    pub build_id: StringId,
}

/// One instruction address, with the names that belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Location {
    /// None: the address lies in no file (JIT code, unmapped by the time it was looked up).
    pub module: Option<ModuleId>,
    /// With a module: the address as the file's symbol table states it (SVMA). Without: absolute.
    /// It is the call instruction's return address as unwound, not yet moved back into the call.
    pub address: u64,
    /// The functions at this address, innermost inlined one first. Empty: no symbol was found.
    pub lines: Vec<Line>,
}

/// A function at a location.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Line {
    /// Demangled name.
    pub function: StringId,
    /// Source file; None without debug information.
    pub file: Option<StringId>,
    /// Source line from 1; None when unknown.
    pub line: Option<u32>,
}

/// A distinct call stack of one process image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stack {
    /// Innermost (the caller of the allocator) first. Empty: the stack record was lost.
    pub locations: Vec<LocationId>,
    /// A `memtrace_common::stack::StackEnd` discriminant: why unwinding stopped.
    pub end: u8,
    /// Process that the stack was first seen in.
    pub pid: u32,
}

/// What one stack did to the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Successful allocations, each realloc included.
    pub alloc_calls: u64,
    /// Requested bytes of those.
    pub alloc_bytes: u64,
    /// Blocks of this stack that were released: by free, by realloc, by exec, or because their
    /// address was handed out again (their free was lost).
    pub free_calls: u64,
    pub freed_bytes: u64,
    /// Allocations that the same thread's next event released.
    pub temporary_calls: u64,
    pub temporary_bytes: u64,
    /// Calls that returned NULL.
    pub failed_calls: u64,
    /// Live bytes and blocks of this stack at the moment when all live bytes together were at their
    /// first maximum.
    pub peak_bytes: u64,
    pub peak_blocks: u64,
}

impl Cost {
    /// Blocks allocated and not released by the end of the recording.
    pub fn live_blocks(&self) -> u64 {
        self.alloc_calls.saturating_sub(self.free_calls)
    }

    /// Bytes of [`Cost::live_blocks`].
    pub fn live_bytes(&self) -> u64 {
        self.alloc_bytes.saturating_sub(self.freed_bytes)
    }
}

/// Sums over the whole recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub alloc_calls: u64,
    pub alloc_bytes: u64,
    /// Releases of known blocks, by free or realloc; not those that exec or a lost free took away,
    /// so `alloc_calls = free_calls + replaced_blocks + exec_dropped_blocks + leaked_blocks`, and
    /// the same in bytes.
    pub free_calls: u64,
    pub freed_bytes: u64,
    pub temporary_calls: u64,
    pub failed_calls: u64,
    /// First maximum of live bytes.
    pub peak_bytes: u64,
    /// When, milliseconds since the recording began.
    pub peak_ms: u64,
    /// Live at the end.
    pub leaked_bytes: u64,
    pub leaked_blocks: u64,
    /// Frees of blocks that this recording never saw allocated (older than it, or lost). Not counted
    /// are those with which glibc empties a thread's cache of free blocks when the thread ends.
    pub unknown_frees: u64,
    /// Frees in a forked child of blocks that its parent had allocated.
    pub inherited_frees: u64,
    /// Allocations that returned an address still live in the model, so whose free was lost; the
    /// old block was taken as released.
    pub replaced_blocks: u64,
    pub replaced_bytes: u64,
    /// Blocks that vanished because their process exec'ed.
    pub exec_dropped_blocks: u64,
    pub exec_dropped_bytes: u64,
    /// Length of the recording, milliseconds.
    pub duration_ms: u64,
    /// Largest resident set seen, bytes, all processes together.
    pub peak_rss_bytes: u64,
}

/// The heap at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimePoint {
    /// Milliseconds since the recording began.
    pub ms: u64,
    pub live_bytes: u64,
    pub live_blocks: u64,
    /// Successful allocations so far.
    pub alloc_calls: u64,
    /// Resident set of all target processes together, bytes; 0 when it could not be read.
    pub rss_bytes: u64,
}

/// A recorded process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Process that forked it, when seen.
    pub parent: Option<u32>,
    pub command: Vec<String>,
    pub live_bytes: u64,
    pub live_blocks: u64,
    pub alloc_calls: u64,
    pub alloc_bytes: u64,
    pub exited: bool,
}

/// A recorded thread. Thread id 0 stands for all threads of its process that came after the
/// recorder's limit on threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    pub pid: u32,
    pub tid: u32,
    /// `comm`, empty when the thread ended before it could be read.
    pub name: String,
    pub alloc_calls: u64,
    pub alloc_bytes: u64,
}

/// Calls by requested size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeHistogram {
    /// Bucket 0 counts size 0, bucket n sizes from 2^(n-1) to 2^n - 1.
    pub calls: Vec<u64>,
}

impl Profile {
    /// The string with this id; empty for an id out of range.
    pub fn string(&self, id: StringId) -> &str {
        self.strings.get(id as usize).map_or("", String::as_str)
    }
}
