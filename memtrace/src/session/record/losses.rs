//! Kernel counters → what the recording lost.

use memtrace_common::counter::Counter;

use crate::profile::Losses;

/// The losses that the kernel side counted and the decoder's own. Those of the writer are not in it.
pub fn from_counters(counters: &[u64; Counter::COUNT as usize], undecodable: u64) -> Losses {
    let of = |counter: Counter| counters[counter as usize];
    Losses {
        lost_allocs: of(Counter::LostAllocs),
        lost_frees: of(Counter::LostFrees),
        lost_reallocs: of(Counter::LostReallocs),
        lost_stacks: of(Counter::LostStacks),
        lost_life: of(Counter::LostLife),
        thread_table_full: of(Counter::ThreadTableFull),
        abandoned_calls: of(Counter::AbandonedCalls),
        stack_collisions: of(Counter::StackCollisions),
        unreadable_results: of(Counter::UnreadableResult),
        unknown_points: of(Counter::UnknownPoint),
        undecodable,
        ..Losses::default()
    }
}
