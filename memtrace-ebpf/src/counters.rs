//! Counting what was lost.

use core::arch::asm;

use memtrace_common::counter::Counter;

use crate::maps::COUNTERS;

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // Atomic, since a uprobe program can be preempted by another on the same CPU.
        add_one(slot);
    }
}

/// Adds one to a map value that others may be adding to.
#[inline(always)]
pub fn add_one(value: *mut u64) {
    // In assembly, since core has no read-modify-write atomics for this target.
    // SAFETY: the callers pass live, aligned map values that are only ever changed atomically.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) value, in(reg) 1u64) };
}
