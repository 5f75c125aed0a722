//! Processes and threads that come and go, as far as they belong to the recording.
//!
//! Coverage needs none of this (probes are inherited by the kernel); these records keep the books:
//! a child starts with an empty heap, exec empties it, an exit ends it.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use memtrace_common::{
    counter::Counter,
    record::{Kind, LifeRecord, tag},
};

use crate::{
    counters::count,
    maps::{PROCESSES, STOPPED, THREADS},
    ring::emit,
    settings::{signal_live, task_signal, task_tgid},
    unwind::maps::UNWIND_PROCESSES,
};

/// `sched_process_fork(parent, child)`: runs in the parent before the child does.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn life_fork(ctx: RawTracePointContext) -> i32 {
    let pid_tid = bpf_get_current_pid_tgid();
    let parent = (pid_tid >> 32) as u32;
    if !is_recorded(parent) {
        return 0;
    }
    let task: u64 = ctx.arg(1);
    let Some(child) = read_u32(task + task_tgid()) else { return 0 };
    if child == parent {
        // A new thread.
        return 0;
    }
    if PROCESSES.insert(child, 1u64, 0).is_err() {
        count(Counter::LostLife);
        return 0;
    }
    // Until the child maps anything, its mappings are its parent's.
    if let Some(mappings) = UNWIND_PROCESSES.get_ptr(parent) {
        // SAFETY: a live map value.
        let mut mappings = unsafe { *mappings };
        mappings.pid = child;
        let _ = UNWIND_PROCESSES.insert(child, mappings, 0);
    }
    debug!(&ctx, "process {} forked {}", parent, child);
    emit(record(Kind::Fork, pid_tid, u64::from(child)), Counter::LostLife, parent);
    0
}

/// `sched_process_exec(task, old_pid, bprm)`: runs in the process with its new program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn life_exec(ctx: RawTracePointContext) -> i32 {
    let pid_tid = bpf_get_current_pid_tgid();
    let tgid = (pid_tid >> 32) as u32;
    if is_recorded(tgid) {
        let _ = THREADS.remove(pid_tid as u32);
        let _ = UNWIND_PROCESSES.remove(tgid);
        debug!(&ctx, "process {} executed a new program", tgid);
        emit(record(Kind::Exec, pid_tid, 0), Counter::LostLife, tgid);
    }
    0
}

/// `sched_process_exit(task, …)`: runs in the thread that ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn life_exit(ctx: RawTracePointContext) -> i32 {
    let pid_tid = bpf_get_current_pid_tgid();
    let tgid = (pid_tid >> 32) as u32;
    if !is_recorded(tgid) {
        return 0;
    }
    let _ = THREADS.remove(pid_tid as u32);
    // do_exit() counts the thread out of signal->live before this tracepoint.
    let task: u64 = ctx.arg(0);
    let last = read_u64(task + task_signal())
        .and_then(|signal| read_u32(signal + signal_live()))
        .is_some_and(|live| live == 0);
    emit(record(Kind::Exit, pid_tid, u64::from(last)), Counter::LostLife, tgid);
    if last {
        let _ = PROCESSES.remove(tgid);
        let _ = STOPPED.remove(tgid);
        let _ = UNWIND_PROCESSES.remove(tgid);
        debug!(&ctx, "process {} ended", tgid);
    }
    0
}

#[inline(always)]
fn is_recorded(tgid: u32) -> bool {
    PROCESSES.get_ptr(tgid).is_some()
}

#[inline(always)]
fn record(kind: Kind, pid_tid: u64, other: u64) -> LifeRecord {
    LifeRecord { tag: tag(kind, 0), pid_tid, other }
}

#[inline(always)]
fn read_u32(address: u64) -> Option<u32> {
    // SAFETY: a fault is an error code.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.ok()
}

#[inline(always)]
fn read_u64(address: u64) -> Option<u64> {
    // SAFETY: a fault is an error code.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.ok()
}
