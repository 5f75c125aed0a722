//! What is remembered of a thread between two probes.

use memtrace_common::{counter::Counter, limits::HOLD_UNTIL_KNOWN};

use crate::{
    counters::count,
    maps::{PROCESSES, THREADS},
    ring::stop_current,
};

/// Per-thread state, a map value. Kept in a map and not per CPU, since uprobe programs can be
/// preempted and migrate between entry and return.
#[repr(C)]
#[derive(Default)]
pub struct Thread {
    /// Stack pointer at the entry of the outermost allocator call (pointing at its return address);
    /// 0 when the thread is in none.
    pub call_sp: u64,
    /// Requested bytes of that call.
    pub size: u64,
    /// realloc: the old block, 0 for none. posix_memalign: where the result goes.
    pub pointer: u64,
    /// The call's `Function` discriminant.
    pub function: u64,
    /// Block and stack pointer of the last free_sized or the like, whose inner call of free is the
    /// same release.
    pub sized_free: u64,
    pub sized_free_sp: u64,
}

/// The state of a thread that was seen before.
#[inline(always)]
pub fn known(tid: u32) -> Option<&'static mut Thread> {
    // SAFETY: map values are aligned and live for the program's run; only the thread itself touches
    // its own, and a signal handler that allocates is told apart by its stack pointer.
    THREADS.get_ptr_mut(tid).map(|thread| unsafe { &mut *thread })
}

/// The state of the current thread, made at its first event. None when the table is full, which is
/// counted.
#[inline(always)]
pub fn get(pid_tid: u64) -> Option<&'static mut Thread> {
    let (tgid, tid) = ((pid_tid >> 32) as u32, pid_tid as u32);
    if let Some(thread) = known(tid) {
        return Some(thread);
    }
    let _ = THREADS.insert(tid, Thread::default(), 0);
    if tid == tgid {
        hold_new_process(tgid);
    }
    let thread = known(tid);
    if thread.is_none() {
        count(Counter::ThreadTableFull);
    }
    thread
}

/// Stops a process that has just begun, if it is one to be held, until userspace has read what it
/// has mapped: its stacks are whole from the first one on. Called when the main thread is new, which
/// it is once more after an exec. (That some of its mappings are known already means nothing: more
/// came since.)
#[inline(always)]
fn hold_new_process(tgid: u32) {
    let Some(wish) = PROCESSES.get_ptr(tgid) else { return };
    // SAFETY: a live map value.
    if unsafe { *wish } == u64::from(HOLD_UNTIL_KNOWN) {
        stop_current(tgid);
    }
}
