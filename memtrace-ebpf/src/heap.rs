//! Allocator calls: what a probe hit means.
//!
//! An allocation is emitted after it returned, a free before it happens, so that an address is never
//! live twice in the stream. Only the outermost call of a thread counts.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_user},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use memtrace_common::{
    counter::Counter,
    limits::POINTS_PER_TABLE,
    point::Function,
    record::{AllocRecord, FreeRecord, Kind, SIZE_MASK, tag},
};

use crate::{
    counters::count,
    maps::POINTS,
    ring::emit,
    stack::capture,
    thread::{self, Thread},
};

/// An inner allocator call cannot lie further below the outer one than this on the stack; a call
/// that does runs on another stack, after the outer one was abandoned.
const MAX_NESTING_BYTES: u64 = 1 << 20;

// One program for each point table: userspace puts points whose low 12 address bits collide into
// different tables and attaches each table's points with the table's program.
macro_rules! entry_program {
    ($name:ident, $table:literal) => {
        #[uprobe]
        pub fn $name(ctx: ProbeContext) -> u32 {
            entry(&ctx, $table);
            0
        }
    };
}
entry_program!(heap_entry_0, 0);
entry_program!(heap_entry_1, 1);
entry_program!(heap_entry_2, 2);
entry_program!(heap_entry_3, 3);

#[uretprobe]
pub fn heap_return(ctx: RetProbeContext) -> u32 {
    returned(&ctx);
    0
}

#[inline(always)]
fn entry(ctx: &ProbeContext, table: u64) {
    // SAFETY: the context of a uprobe program is a readable pt_regs.
    let regs = unsafe { &*ctx.regs };
    let slot = table * POINTS_PER_TABLE as u64 + (regs.rip & (POINTS_PER_TABLE as u64 - 1));
    let Some(point) = POINTS.get(slot as u32) else { return };
    let Some(function) = Function::from_u8(point.function) else {
        count(Counter::UnknownPoint);
        return;
    };
    let pid_tid = bpf_get_current_pid_tgid();
    let sp = regs.rsp + u64::from(point.pushed);
    if function.is_free() {
        free(function, regs.rdi, sp, pid_tid);
        return;
    }
    let Some(thread) = thread::get(pid_tid) else { return };
    if is_inner_call(thread, function, sp) {
        count(Counter::NestedCalls);
        return;
    }
    thread.call_sp = sp;
    thread.function = function as u64;
    thread.pointer = 0;
    thread.size = match function {
        Function::Malloc | Function::Valloc | Function::Pvalloc => regs.rdi,
        Function::Calloc => product(regs.rdi, regs.rsi),
        Function::Realloc => {
            thread.pointer = regs.rdi;
            regs.rsi
        }
        Function::Reallocarray => {
            thread.pointer = regs.rdi;
            product(regs.rsi, regs.rdx)
        }
        Function::PosixMemalign => {
            thread.pointer = regs.rdi;
            regs.rdx
        }
        _ => regs.rsi,
    };
    if is_realloc(function) && thread.pointer != 0 {
        let record = FreeRecord { tag: tag(Kind::ReallocBegin, thread.pointer), pid_tid };
        emit(record, Counter::LostReallocs, (pid_tid >> 32) as u32);
    }
}

#[inline(always)]
fn free(function: Function, address: u64, sp: u64, pid_tid: u64) {
    if address == 0 {
        return;
    }
    let tid = pid_tid as u32;
    if matches!(function, Function::Free) {
        if let Some(thread) = thread::known(tid) {
            let inner_release = thread.sized_free == address && sp <= thread.sized_free_sp;
            thread.sized_free = 0;
            if inner_release || is_inner_call(thread, function, sp) {
                count(Counter::NestedCalls);
                return;
            }
        }
    } else {
        let Some(thread) = thread::get(pid_tid) else { return };
        if is_inner_call(thread, function, sp) {
            count(Counter::NestedCalls);
            return;
        }
        thread.sized_free = address;
        thread.sized_free_sp = sp;
    }
    count(Counter::Events);
    let record = FreeRecord { tag: tag(Kind::Free, address), pid_tid };
    emit(record, Counter::LostFrees, (pid_tid >> 32) as u32);
}

/// True when the thread is inside an allocator call already. A call that never returned (longjmp,
/// cancellation) is told by the stack pointer, which has gone back up, and is forgotten.
#[inline(always)]
fn is_inner_call(thread: &mut Thread, function: Function, sp: u64) -> bool {
    let outer = thread.call_sp;
    if outer == 0 {
        return false;
    }
    if sp < outer && outer - sp < MAX_NESTING_BYTES {
        return true;
    }
    // The same stack pointer with another function is a tail call (reallocarray jumps to realloc).
    if sp == outer && thread.function != function as u64 {
        return true;
    }
    thread.call_sp = 0;
    count(Counter::AbandonedCalls);
    false
}

#[inline(always)]
fn returned(ctx: &RetProbeContext) {
    let pid_tid = bpf_get_current_pid_tgid();
    let Some(thread) = thread::known(pid_tid as u32) else { return };
    // SAFETY: the context of a uprobe program is a readable pt_regs.
    let regs = unsafe { &*ctx.regs };
    // The return popped the return address; any other stack pointer is an inner call's return.
    if thread.call_sp == 0 || regs.rsp != thread.call_sp + 8 {
        return;
    }
    thread.call_sp = 0;
    let Some(function) = Function::from_u8(thread.function as u8) else { return };
    let address = match function {
        Function::PosixMemalign => posix_memalign_result(thread.pointer, regs.rax),
        _ => regs.rax,
    };
    let reallocated = is_realloc(function) && thread.pointer != 0;
    let kind = match (reallocated, address) {
        (true, _) => Kind::ReallocEnd,
        (false, 0) => Kind::AllocFailed,
        (false, _) => Kind::Alloc,
    };
    let size = if thread.size > SIZE_MASK { SIZE_MASK } else { thread.size };
    let stack = capture(ctx, pid_tid);
    let record = AllocRecord {
        tag: tag(kind, address),
        size_function: size | (function as u64) << 56,
        stack,
        pid_tid,
    };
    count(Counter::Events);
    let loss = if reallocated { Counter::LostReallocs } else { Counter::LostAllocs };
    emit(record, loss, (pid_tid >> 32) as u32);
}

/// The block that a posix_memalign made; 0 when it failed, as told by its error number.
#[inline(always)]
fn posix_memalign_result(result: u64, error: u64) -> u64 {
    if error as u32 != 0 {
        return 0;
    }
    let mut address = 0u64;
    // SAFETY: reads 8 bytes of user memory into a local; a fault is an error code.
    let read = unsafe { bpf_probe_read_user((&raw mut address).cast(), 8, result as *const _) };
    if read != 0 {
        count(Counter::UnreadableResult);
    }
    address
}

#[inline(always)]
fn is_realloc(function: Function) -> bool {
    matches!(function, Function::Realloc | Function::Reallocarray)
}

/// Bytes of an array; saturates on overflow, where the allocator fails too. In 32-bit halves, since
/// LLVM turns any plainer check into a 128-bit multiplication, which the BPF target doesn't have.
#[inline(always)]
fn product(count: u64, size: u64) -> u64 {
    const LOW: u64 = u32::MAX as u64;
    let (count_high, size_high) = (count >> 32, size >> 32);
    if count_high != 0 && size_high != 0 {
        return u64::MAX;
    }
    // At most one of the two terms is not zero.
    let middle = count_high * (size & LOW) + size_high * (count & LOW);
    let low = (count & LOW) * (size & LOW);
    let total = (middle << 32).wrapping_add(low);
    if middle > LOW || total < low { u64::MAX } else { total }
}
