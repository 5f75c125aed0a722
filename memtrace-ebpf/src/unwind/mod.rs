//! User stacks, unwound in the kernel.
//!
//! [`unwind`] starts from the registers of the allocator's caller and leaves the return addresses
//! in a [`Scratch`], ready to be sent. Userspace has filled the tables of [`maps`] from the
//! binaries' call frame information (layouts in [`memtrace_common::unwind`]); a frame is recorded
//! only if it lies in an executable mapping that userspace told of, so what can't be followed ends
//! the stack with its reason and no frame is invented. With [`maps::UNWIND_WITH_TABLES`] 0 the
//! chain of frame pointers is walked instead.
//!
//! What the verifiers of 6.1 to 6.18 want of this code:
//! - searches are global functions with scalar arguments, so that each is verified once;
//! - the state lives in a map, where the verifier doesn't track it: on the stack it costs a hundred
//!   thousand steps, and `bpf_loop` callbacks of 6.1 can't change it at all;
//! - no per-CPU state: a uprobe's program can be preempted by another thread's.

mod find;
mod memory;
mod scratch;
mod step;

pub mod maps;

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use memtrace_common::limits::MAX_FRAMES;

pub use scratch::Scratch;

/// Frames that one callback of `bpf_loop` does.
const FRAMES_PER_CALLBACK: u32 = 8;

/// One more than needed for [`MAX_FRAMES`]: the last one finds out whether there were more.
const CALLBACKS: u32 = MAX_FRAMES as u32 / FRAMES_PER_CALLBACK + 1;

/// What `bpf_loop` hands to the callbacks; must lie on the BPF stack.
struct Loop {
    scratch: *mut Scratch,
    slot: u32,
}

/// Unwinds the stack of the current thread of process `tgid`.
///
/// `ip` is the return address of a call and the first frame; `sp` and `bp` are the registers after
/// that return. The result holds the frames in `frames[..header.frames]`, the reason of the end in
/// `header.end`, and two independent hashes over process, mapping generation and frames in
/// `hash` (never 0) and `check`. It must be given back with [`release`]. None: all scratch areas
/// are in use (count it as [`StackEnd::Busy`](memtrace_common::stack::StackEnd::Busy)).
#[inline(always)]
pub fn unwind(tgid: u32, ip: u64, sp: u64, bp: u64) -> Option<&'static mut Scratch> {
    let (scratch, slot) = scratch::acquire()?;
    // SAFETY: `acquire` made this thread the only user of the map value until `release`.
    unsafe {
        (*scratch).start(ip, sp, bp);
        let mut run = Loop { scratch, slot };
        let context = (&raw mut run).cast::<c_void>();
        if maps::with_tables() {
            if step::enter_process(scratch, tgid) {
                bpf_loop(CALLBACKS, with_tables as *mut c_void, context, 0);
            }
        } else {
            (*scratch).seed(tgid, 0);
            bpf_loop(CALLBACKS, with_frame_pointers as *mut c_void, context, 0);
        }
        (*scratch).finish(sp);
        Some(&mut *scratch)
    }
}

/// Ends the use of what [`unwind`] returned.
#[inline(always)]
pub fn release(scratch: &'static mut Scratch) {
    scratch::release(scratch);
}

/// Eight frames. A callback must return 0 (go on) or 1 (stop), and the verifier must see it.
unsafe extern "C" fn with_tables(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `context` is the `Loop` of the `unwind` that is running this callback.
    let (scratch, slot) = unsafe {
        let run = context.cast::<Loop>();
        ((*run).scratch, (*run).slot)
    };
    // SAFETY: the scratch is this thread's until it is released.
    let stop = unsafe {
        step::step(scratch, slot)
            || step::step(scratch, slot)
            || step::step(scratch, slot)
            || step::step(scratch, slot)
            || step::step(scratch, slot)
            || step::step(scratch, slot)
            || step::step(scratch, slot)
            || step::step(scratch, slot)
    };
    if stop { 1 } else { 0 }
}

unsafe extern "C" fn with_frame_pointers(_index: u32, context: *mut c_void) -> i64 {
    // SAFETY: `context` is the `Loop` of the `unwind` that is running this callback.
    let (scratch, slot) = unsafe {
        let run = context.cast::<Loop>();
        ((*run).scratch, (*run).slot)
    };
    // SAFETY: the scratch is this thread's until it is released.
    let stop = unsafe {
        step::frame_pointer_step(scratch, slot)
            || step::frame_pointer_step(scratch, slot)
            || step::frame_pointer_step(scratch, slot)
            || step::frame_pointer_step(scratch, slot)
            || step::frame_pointer_step(scratch, slot)
            || step::frame_pointer_step(scratch, slot)
            || step::frame_pointer_step(scratch, slot)
            || step::frame_pointer_step(scratch, slot)
    };
    if stop { 1 } else { 0 }
}
