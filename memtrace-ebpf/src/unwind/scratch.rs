//! The unwinder's working memory: too big for the BPF stack, and never shared by two threads.

use core::arch::asm;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use memtrace_common::{
    limits::{MAX_FRAMES, UNWIND_SCRATCHES},
    record::StackHeader,
    stack::StackEnd,
};

use super::maps::UNWIND_SCRATCH;

/// Bytes of user stack that are held at a time.
pub const WINDOW_BYTES: u64 = 8192;

/// Areas of a processor: a thread that was preempted while unwinding still holds one.
const SCRATCHES_PER_CPU: u32 = 8;

/// Areas tried before giving up.
const TRIES: u32 = 16;

/// `bp` holds the frame's `rbp`.
pub const BP_KNOWN: u32 = 1;
/// `ip` came from a frame pointer and not from call frame information.
pub const BY_FRAME_POINTER: u32 = 2;

/// One thread's unwinding. `header`, `frames`, `hash` and `check` are the result; `header` and
/// `frames` lie together so that they can be sent as one record.
#[repr(C)]
pub struct Scratch {
    /// 1 while a thread uses it.
    owner: u64,
    pub(super) flags: u32,
    /// Registers of the frame that is looked at next.
    pub(super) ip: u64,
    pub(super) sp: u64,
    pub(super) bp: u64,
    /// 1 when `ip` is a return address: the call that it belongs to lies before it.
    pub(super) back: u64,
    /// The process' mapping list.
    pub(super) generation: u32,
    pub(super) first: u32,
    pub(super) count: u32,
    /// Frames found so far.
    pub(super) len: u32,
    /// Never 0.
    pub hash: u64,
    pub check: u64,
    /// User address of `window[0]`, and the bytes that are valid there.
    pub(super) window_at: u64,
    pub(super) window_len: u64,
    /// Bytes of stack that the last unwinding here went through: how much to read at first.
    pub(super) extent: u64,
    /// `tag`, `stack` and `pid_tid` are the caller's to fill.
    pub header: StackHeader,
    pub frames: [u64; MAX_FRAMES],
    pub(super) window: [u64; WINDOW_BYTES as usize / 8],
}

impl Scratch {
    #[inline(always)]
    pub(super) fn start(&mut self, ip: u64, sp: u64, bp: u64) {
        self.flags = BP_KNOWN;
        self.ip = ip;
        self.sp = sp;
        self.bp = bp;
        self.back = 1;
        self.len = 0;
        self.window_len = 0;
        self.header.end = StackEnd::Complete as u8;
        self.header.pad = [0; 5];
    }

    #[inline(always)]
    pub(super) fn seed(&mut self, tgid: u32, generation: u32) {
        self.generation = generation;
        self.hash = (u64::from(tgid) << 32 | u64::from(generation)).wrapping_mul(HASH_PRIME);
        self.check = self.hash ^ CHECK_PRIME;
    }

    #[inline(always)]
    pub(super) fn finish(&mut self, first_sp: u64) {
        if self.hash == 0 {
            self.hash = 1;
        }
        self.extent = self.sp.wrapping_sub(first_sp);
        self.header.frames = self.len as u16;
    }

    /// Records `ip`. False when there is no room left.
    #[inline(always)]
    pub(super) fn push(&mut self, ip: u64) -> bool {
        // SAFETY: a field of this struct. Volatile, so that the bound is on the very register that
        // is the index: LLVM would compare one copy and use another.
        let len = unsafe { (&raw const self.len).read_volatile() };
        if len >= MAX_FRAMES as u32 {
            return false;
        }
        // SAFETY: `len` is below the number of frames.
        unsafe {
            (&raw mut self.frames).cast::<u64>().add(len as usize & (MAX_FRAMES - 1)).write(ip)
        };
        self.len = len + 1;
        self.hash = (self.hash ^ ip).wrapping_mul(HASH_PRIME);
        self.hash ^= self.hash >> 32;
        self.check = self.check.rotate_left(23).wrapping_add(ip).wrapping_mul(CHECK_PRIME);
        true
    }

    /// Ends the stack with this reason. Returns true for "stop".
    #[inline(always)]
    pub(super) fn end(&mut self, end: StackEnd) -> bool {
        self.header.end = end as u8;
        true
    }
}

const HASH_PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
const CHECK_PRIME: u64 = 0xd6e8_feb8_6659_fd93;

/// A scratch area that nobody else uses, with its number in the map.
#[inline(always)]
pub fn acquire() -> Option<(*mut Scratch, u32)> {
    // SAFETY: no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    for i in 0..TRIES {
        let slot = cpu.wrapping_mul(SCRATCHES_PER_CPU).wrapping_add(i) & (UNWIND_SCRATCHES - 1);
        let scratch = UNWIND_SCRATCH.get_ptr_mut(slot)?;
        // SAFETY: a live map value; `owner` is only ever touched by `exchange`.
        if unsafe { exchange(&raw mut (*scratch).owner, 1) } == 0 {
            return Some((scratch, slot));
        }
    }
    None
}

/// Gives the area back.
#[inline(always)]
pub fn release(scratch: &mut Scratch) {
    // SAFETY: a live map value.
    unsafe { exchange(&raw mut scratch.owner, 0) };
}

/// Stores `new` and returns what was there, in one step. `core` has no such atomics for BPF.
///
/// # Safety
/// `place` is a word of a map value.
#[inline(always)]
unsafe fn exchange(place: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: by the caller's promise.
    unsafe {
        asm!("{value} = xchg_64({place} + 0, {value})", place = in(reg) place, value = inout(reg) value)
    };
    value
}
