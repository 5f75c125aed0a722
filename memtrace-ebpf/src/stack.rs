//! The call stack of an event: unwound, interned, sent once.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, programs::RetProbeContext};
use memtrace_common::{
    counter::Counter,
    limits::MAX_FRAMES,
    record::{Kind, StackHeader, tag},
};

use crate::{counters::count, maps::KNOWN_STACKS, ring::emit_bytes, unwind};

/// Walks the stack of a thread whose allocator call has just returned, sends its frames if they were
/// not sent before, and returns its id; 0 when there was no room to walk it. `pid_tid` is that of
/// the current thread.
#[inline(always)]
pub fn capture(ctx: &RetProbeContext, pid_tid: u64) -> u64 {
    // SAFETY: the context of a uprobe program is a readable pt_regs.
    let regs = unsafe { &*ctx.regs };
    // `rip` is the return address, since the kernel puts the real one back before it runs return
    // probes.
    let Some(scratch) = unwind::unwind((pid_tid >> 32) as u32, regs.rip, regs.rsp, regs.rbp) else {
        count(Counter::UnwinderBusy);
        return 0;
    };
    let id = scratch.hash;
    match KNOWN_STACKS.get_ptr(id) {
        Some(known) => {
            // SAFETY: a live map value.
            if unsafe { *known } != scratch.check {
                count(Counter::StackCollisions);
            }
        }
        None => send(scratch, id, pid_tid),
    }
    unwind::release(scratch);
    id
}

#[inline(always)]
fn send(scratch: &mut unwind::Scratch, id: u64, pid_tid: u64) {
    scratch.header.tag = tag(Kind::Stack, 0);
    scratch.header.stack = id;
    scratch.header.pid_tid = pid_tid;
    // SAFETY: a helper call without arguments.
    scratch.header.time_ns = unsafe { bpf_ktime_get_ns() };
    let frames = u64::from(scratch.header.frames).min(MAX_FRAMES as u64);
    let len = size_of::<StackHeader>() as u64 + frames * 8;
    // Only a stack that was sent is known: a lost one travels again with its next event.
    if emit_bytes((&raw const scratch.header).cast(), len, Counter::LostStacks)
        && KNOWN_STACKS.insert(id, scratch.check, 0).is_err()
    {
        count(Counter::StackTableFull);
    }
}
