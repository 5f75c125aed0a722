//! The thread's stack, read in pieces large enough to hold several frames.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

use super::{
    maps::UNWIND_SCRATCH,
    scratch::{Scratch, WINDOW_BYTES},
};

/// Least that is read at a time.
const LEAST: u64 = 1024;

/// Sizes are multiples of 8 below [`WINDOW_BYTES`]; this mask shows it to the verifier.
const SIZE_MASK: u64 = WINDOW_BYTES - 8;

const USER_PAGE: u64 = 4096;

/// The word at user address `address`; None when it can't be read.
///
/// # Safety
/// `scratch` is slot `slot` of the map and this thread's.
#[inline(always)]
pub unsafe fn read_word(scratch: *mut Scratch, slot: u32, address: u64) -> Option<u64> {
    // SAFETY: by the caller's promise; the index is masked to the window's size.
    unsafe {
        let mut at = address.wrapping_sub((*scratch).window_at);
        // A word that straddles the window's end is not in it: both are multiples of 8, or the
        // address is odd, which refills the window at that very address.
        if at >= (*scratch).window_len || at & 7 != 0 {
            if unwind_refill(slot, address) == 0 {
                return None;
            }
            at = 0;
        }
        let index = (at >> 3) & (WINDOW_BYTES / 8 - 1);
        Some((&raw const (*scratch).window).cast::<u64>().add(index as usize).read_volatile())
    }
}

/// Reads user memory from `address` on into the window of scratch `slot`; returns the number of
/// bytes that are valid, 0 when not even one word could be read. A global function, so that it is
/// verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unwind_refill(slot: u32, address: u64) -> u64 {
    let Some(scratch) = UNWIND_SCRATCH.get_ptr_mut(slot) else { return 0 };
    // SAFETY: a live map value that the calling thread owns.
    unsafe {
        (*scratch).window_at = address;
        // The first piece is as long as the last stack was, since the next one is likely the same.
        let mut size = LEAST;
        if (*scratch).window_len == 0 {
            size = (*scratch).extent.wrapping_add(64);
            if size < LEAST / 2 {
                size = LEAST / 2;
            }
            if size > SIZE_MASK {
                size = SIZE_MASK;
            }
        }
        let window = (&raw mut (*scratch).window).cast();
        size &= SIZE_MASK;
        if bpf_probe_read_user(window, size as u32, address as *const _) == 0 {
            (*scratch).window_len = size;
            return size;
        }
        // The stack ends within that, or its next page was never touched: up to the page's end.
        size = (USER_PAGE - (address & (USER_PAGE - 1))) & SIZE_MASK;
        if size >= 8 && bpf_probe_read_user(window, size as u32, address as *const _) == 0 {
            (*scratch).window_len = size;
            return size;
        }
        if bpf_probe_read_user(window, 8, address as *const _) == 0 {
            (*scratch).window_len = 8;
            return 8;
        }
        (*scratch).window_len = 0;
        0
    }
}
