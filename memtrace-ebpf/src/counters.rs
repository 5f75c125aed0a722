//! Counting what was lost.

use core::arch::asm;

use memtrace_common::counter::Counter;

use crate::maps::COUNTERS;

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // Atomic, since a uprobe program can be preempted by another on the same CPU; in assembly,
        // since core has no read-modify-write atomics for this target.
        // SAFETY: the slot is a live, aligned u64 that is only ever accessed atomically.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) slot, in(reg) 1u64) };
    }
}
