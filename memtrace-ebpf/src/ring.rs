//! Emission: a record into the ring, or a counted loss.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_ringbuf_output, bpf_send_signal_thread},
};
use memtrace_common::counter::Counter;

use crate::{
    counters::{add_one, count},
    maps::{RING, STOPPED},
    settings::{lossless, stop_bytes, wakeup_bytes},
};

const SIGSTOP: u32 = 19;

/// Puts a fixed-size record into the ring; false, and counted, when it does not fit.
#[inline(always)]
pub fn emit<T: 'static>(record: T, loss: Counter, tgid: u32) -> bool {
    let Some(mut entry) = RING.reserve::<T>(0) else {
        count(loss);
        return false;
    };
    entry.write(record);
    let unread = RING.query(u64::from(BPF_RB_AVAIL_DATA));
    entry.submit(wakeup_flags(unread));
    hold_back(unread, tgid);
    true
}

/// Puts `len` bytes from `data` into the ring; false, and counted, when they do not fit.
#[inline(always)]
pub fn emit_bytes(data: *const u8, len: u64, loss: Counter) -> bool {
    let flags = wakeup_flags(RING.query(u64::from(BPF_RB_AVAIL_DATA)));
    // SAFETY: the caller passes a pointer into a map value and a length within it, which the
    // verifier checks again.
    let result = unsafe {
        bpf_ringbuf_output((&raw const RING).cast_mut().cast(), data.cast_mut().cast(), len, flags)
    };
    if result != 0 {
        count(loss);
    }
    result == 0
}

/// The reader polls by timer, which costs the traced program nothing; it is woken only when the
/// ring fills faster than that.
#[inline(always)]
fn wakeup_flags(unread: u64) -> u64 {
    if unread >= wakeup_bytes() {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// `--lossless`: stops this thread's process when the ring is half full; userspace continues it.
#[inline(always)]
fn hold_back(unread: u64, tgid: u32) {
    if lossless() == 0 || unread < stop_bytes() {
        return;
    }
    if stop_current(tgid) {
        count(Counter::Stops);
    }
}

/// Stops the current process. Userspace (or its watchdog) sees that its count in `STOPPED` has grown
/// and continues it.
#[inline(always)]
pub fn stop_current(tgid: u32) -> bool {
    // The signal comes first: counted before, userspace could continue the process before the signal
    // arrives, and nobody would continue it afterwards.
    // SAFETY: a helper call with a scalar argument.
    if unsafe { bpf_send_signal_thread(SIGSTOP) } != 0 {
        return false;
    }
    if let Some(stops) = STOPPED.get_ptr_mut(tgid) {
        add_one(stops);
    } else if STOPPED.insert(tgid, 1u64, u64::from(BPF_NOEXIST)).is_err()
        && let Some(stops) = STOPPED.get_ptr_mut(tgid)
    {
        // Another thread was faster.
        add_one(stops);
    }
    true
}
