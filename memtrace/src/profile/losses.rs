//! What a recording could not see, by cause.

use serde::{Deserialize, Serialize};

/// Events and facts that were lost, each with what it does to the totals. All zero: the recording
/// is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Allocations not seen: allocated and leaked bytes are too low.
    pub lost_allocs: u64,
    /// Frees not seen: leaked bytes are too high.
    pub lost_frees: u64,
    /// Halves of reallocs not seen: either of the above.
    pub lost_reallocs: u64,
    /// Stack records not seen; sent again later, so only stacks never seen again stay unnamed.
    pub lost_stacks: u64,
    /// Fork, exec or exit not seen.
    pub lost_life: u64,
    /// Calls not followed because the kernel's thread table was full: as lost_allocs.
    pub thread_table_full: u64,
    /// Calls that never returned (thread died inside, longjmp): no block came of them.
    pub abandoned_calls: u64,
    /// Stacks merged by a hash collision.
    pub stack_collisions: u64,
    /// posix_memalign results that could not be read: as lost_allocs.
    pub unreadable_results: u64,
    /// Probe hits at no known point.
    pub unknown_points: u64,
    /// Records the decoder did not understand.
    pub undecodable: u64,
    /// Allocations whose stack id was never explained.
    pub unknown_stacks: u64,
    /// Bytes of recording that could not be written (disk full).
    pub unwritten_bytes: u64,
}

impl Losses {
    /// True when byte and call totals can be wrong.
    pub fn affect_totals(&self) -> bool {
        self.lost_allocs
            | self.lost_frees
            | self.lost_reallocs
            | self.lost_life
            | self.thread_table_full
            | self.unreadable_results
            | self.unknown_points
            | self.undecodable
            | self.unwritten_bytes
            != 0
    }

    /// True when nothing at all was lost. `abandoned_calls` are not losses: no block came of them.
    pub fn is_exact(&self) -> bool {
        !self.affect_totals() && self.lost_stacks | self.stack_collisions | self.unknown_stacks == 0
    }
}
