//! Loss and health counters kept by the BPF programs, one per-CPU array slot each.

/// Index into the per-CPU `COUNTERS` array. Every slot is a `u64` that only grows.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Allocation records that found no room in the ring.
    LostAllocs = 0,
    /// Free records that found no room in the ring.
    LostFrees = 1,
    /// Records of either half of a realloc that found no room in the ring.
    LostReallocs = 2,
    /// Stack records that found no room in the ring; the stack is sent again at its next event.
    LostStacks = 3,
    /// Fork, exec, exit records that found no room in the ring.
    LostLife = 4,
    /// Allocator calls not followed because the thread table was full.
    ThreadTableFull = 5,
    /// Outermost calls that never returned: thread died, longjmp, cancelled.
    AbandonedCalls = 6,
    /// Inner allocator calls that were rightly not counted (calloc that calls mmap, reallocarray
    /// that calls realloc). Not a loss.
    NestedCalls = 7,
    /// Known-stack table full: the stack was sent more than once. Not a loss.
    StackTableFull = 8,
    /// Two stacks with one 64-bit id, told apart by a second hash; the later is counted under the
    /// earlier one's id.
    StackCollisions = 9,
    /// A successful posix_memalign whose result could not be read from user memory.
    UnreadableResult = 10,
    /// Events seen by the heap programs, lost ones included.
    Events = 11,
    /// Times a thread was stopped by `--lossless`.
    Stops = 12,
    /// Hits at an address that is not a probe point of ours.
    UnknownPoint = 13,
    /// Allocations whose stack was not walked, since too many threads were unwinding at once.
    UnwinderBusy = 14,
}

impl Counter {
    /// Number of counters, the length of the `COUNTERS` array.
    pub const COUNT: u32 = 15;

    /// Every counter, in slot order.
    pub const ALL: [Counter; Self::COUNT as usize] = [
        Counter::LostAllocs,
        Counter::LostFrees,
        Counter::LostReallocs,
        Counter::LostStacks,
        Counter::LostLife,
        Counter::ThreadTableFull,
        Counter::AbandonedCalls,
        Counter::NestedCalls,
        Counter::StackTableFull,
        Counter::StackCollisions,
        Counter::UnreadableResult,
        Counter::Events,
        Counter::Stops,
        Counter::UnknownPoint,
        Counter::UnwinderBusy,
    ];
}

const _: () = {
    let mut i = 0;
    while i < Counter::ALL.len() {
        assert!(Counter::ALL[i] as usize == i);
        i += 1;
    }
};
