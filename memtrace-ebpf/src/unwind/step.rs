//! From one frame to its caller.

use memtrace_common::{
    stack::StackEnd,
    unwind::{Rule, cfa, rbp, signal},
};

use super::{
    find::{NO_MAPPING, rule_for},
    maps::{UNWIND_PROCESSES, UNWIND_RULE_BITS},
    memory::read_word,
    scratch::{BP_KNOWN, BY_FRAME_POINTER, Scratch},
};

/// Largest frame that a frame pointer is believed to span.
const MAX_FRAME_BYTES: u64 = 16 << 20;

/// First address that no user program has (five-level page tables).
const USER_END: u64 = 1 << 56;

/// Sets the process' mapping list. False: it isn't known; the stack has ended with its first frame.
///
/// # Safety
/// `scratch` is this thread's.
#[inline(always)]
pub unsafe fn enter_process(scratch: *mut Scratch, tgid: u32) -> bool {
    // SAFETY: by the caller's promise; a map value lives as long as the program runs.
    unsafe {
        let s = &mut *scratch;
        if let Some(process) = UNWIND_PROCESSES.get_ptr(tgid) {
            s.first = (&raw const (*process).first).read_volatile();
            s.count = (&raw const (*process).count).read_volatile();
            let generation = (&raw const (*process).generation).read_volatile();
            // Last, since the entry may have become another process' meanwhile. A mixture of the
            // two is found out by the generation, which every mapping carries.
            if (&raw const (*process).pid).read_volatile() == tgid {
                s.seed(tgid, generation);
                return true;
            }
        }
        s.seed(tgid, 0);
        s.push(s.ip);
        s.end(StackEnd::UnknownProcess);
        false
    }
}

/// Records the frame at `ip` and moves to its caller. True: the stack has ended.
///
/// # Safety
/// `scratch` is slot `slot` of the map and this thread's, in a process that was entered.
#[inline(always)]
pub unsafe fn step(scratch: *mut Scratch, slot: u32) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let s = &mut *scratch;
        let ip = s.ip;
        let found = rule_for(scratch, ip.wrapping_sub(s.back));
        if found == NO_MAPPING {
            if s.len == 0 {
                // The caller says that this is a return address; it is just not ours to unwind.
                s.push(ip);
            }
            let guessed = s.flags & BY_FRAME_POINTER != 0;
            return s.end(if guessed { StackEnd::NoUnwindInfo } else { StackEnd::NoMapping });
        }
        let rule = match UNWIND_RULE_BITS.get_ptr(found as u32) {
            Some(bits) => Rule::from_bits(bits.read_volatile()),
            None => Rule::UNSUPPORTED,
        };
        if rule.cfa == cfa::TRAMPOLINE {
            return s.end(StackEnd::ProbeTrampoline);
        }
        if rule.cfa == cfa::FILLING {
            return function_address(s);
        }
        // An interrupted instruction is recorded as if it were a call of one byte, so that all frames
        // are looked up alike.
        if !s.push(ip.wrapping_add(1).wrapping_sub(s.back)) {
            return s.end(StackEnd::DepthLimit);
        }
        let offset = rule.cfa_offset as i64 as u64;
        let cfa = match rule.cfa {
            cfa::RSP => s.sp.wrapping_add(offset),
            cfa::RBP | cfa::AT_RBP => {
                if s.flags & BP_KNOWN == 0 {
                    return s.end(StackEnd::UnsupportedRule);
                }
                let at = s.bp.wrapping_add(offset);
                if rule.cfa == cfa::RBP {
                    at
                } else {
                    match read_word(scratch, slot, at) {
                        Some(word) => word,
                        None => return s.end(StackEnd::UnreadableMemory),
                    }
                }
            }
            cfa::PLT => s.sp.wrapping_add(if ip & 15 >= offset { 16 } else { 8 }),
            cfa::AT_RSP => match read_word(scratch, slot, s.sp.wrapping_add(offset)) {
                Some(word) => word,
                None => return s.end(StackEnd::UnreadableMemory),
            },
            cfa::SIGNAL => return signal_frame(scratch, slot),
            cfa::OUTERMOST => return s.end(StackEnd::Complete),
            cfa::NONE | cfa::ANONYMOUS => return guess(scratch, slot, rule.cfa),
            _ => return s.end(StackEnd::UnsupportedRule),
        };
        if cfa <= s.sp {
            return s.end(StackEnd::StackNotGrowing);
        }
        // rbp first: it lies below the return address, so one piece of stack holds both.
        let saved = rule.rbp_offset as i64 as u64;
        let at = match rule.rbp {
            rbp::AT_CFA => cfa.wrapping_add(saved),
            _ => s.bp.wrapping_add(saved),
        };
        match rule.rbp {
            rbp::SAME => {}
            rbp::UNKNOWN => s.flags &= !BP_KNOWN,
            _ => {
                if rule.rbp == rbp::AT_RBP && s.flags & BP_KNOWN == 0 {
                    return s.end(StackEnd::UnsupportedRule);
                }
                match read_word(scratch, slot, at) {
                    Some(word) => s.bp = word,
                    None => return s.end(StackEnd::UnreadableMemory),
                }
                s.flags |= BP_KNOWN;
            }
        }
        match read_word(scratch, slot, cfa.wrapping_sub(8)) {
            Some(0) => s.end(StackEnd::Complete),
            Some(word) => {
                s.ip = word;
                s.sp = cfa;
                s.back = 1;
                s.flags &= !BY_FRAME_POINTER;
                false
            }
            None => s.end(StackEnd::UnreadableMemory),
        }
    }
}

/// The frame's "return address" is the beginning of a function: nothing was called from there, it
/// is a stack's bottom, if it is not a frame pointer's wrong guess. Recorded like an interrupted
/// frame, as an address behind the function's first byte.
#[inline(always)]
fn function_address(s: &mut Scratch) -> bool {
    if s.flags & BY_FRAME_POINTER != 0 {
        return s.end(StackEnd::NoUnwindInfo);
    }
    if !s.push(s.ip.wrapping_add(1)) {
        return s.end(StackEnd::DepthLimit);
    }
    s.end(StackEnd::Complete)
}

/// From a signal handler's return trampoline to the interrupted frame, whose registers the kernel
/// saved. The stacks may differ (`sigaltstack`), in either direction.
#[inline(always)]
unsafe fn signal_frame(scratch: *mut Scratch, slot: u32) -> bool {
    // SAFETY: as in `step`.
    unsafe {
        let s = &mut *scratch;
        let Some(bp) = read_word(scratch, slot, s.sp.wrapping_add(signal::RBP)) else {
            return s.end(StackEnd::UnreadableMemory);
        };
        let Some(sp) = read_word(scratch, slot, s.sp.wrapping_add(signal::RSP)) else {
            return s.end(StackEnd::UnreadableMemory);
        };
        let Some(ip) = read_word(scratch, slot, s.sp.wrapping_add(signal::RIP)) else {
            return s.end(StackEnd::UnreadableMemory);
        };
        s.bp = bp;
        s.sp = sp;
        s.ip = ip;
        s.back = 0;
        s.flags = BP_KNOWN;
        false
    }
}

/// Code without call frame information: if it keeps a frame pointer, follow that. The address found
/// counts only if it lies in a known mapping, which the next step finds out.
#[inline(always)]
unsafe fn guess(scratch: *mut Scratch, slot: u32, kind: u8) -> bool {
    // SAFETY: as in `step`.
    unsafe {
        let s = &mut *scratch;
        let bp = s.bp;
        if s.flags & BP_KNOWN != 0 && bp == 0 && kind == cfa::NONE {
            // The ABI's mark of the outermost frame, in code that comes from a file. Code made at
            // run time may have any number in rbp.
            return s.end(StackEnd::Complete);
        }
        if s.flags & BP_KNOWN == 0 || bp < s.sp || bp.wrapping_sub(s.sp) > MAX_FRAME_BYTES {
            return s.end(StackEnd::NoUnwindInfo);
        }
        let Some(saved) = read_word(scratch, slot, bp) else {
            return s.end(StackEnd::NoUnwindInfo);
        };
        let Some(ip) = read_word(scratch, slot, bp.wrapping_add(8)) else {
            return s.end(StackEnd::NoUnwindInfo);
        };
        if ip == 0 {
            return s.end(StackEnd::NoUnwindInfo);
        }
        s.sp = bp.wrapping_add(16);
        s.bp = saved;
        s.ip = ip;
        s.back = 1;
        s.flags |= BY_FRAME_POINTER;
        false
    }
}

/// As [`step`], by frame pointers alone: nothing is known of the mappings.
///
/// # Safety
/// `scratch` is slot `slot` of the map and this thread's.
#[inline(always)]
pub unsafe fn frame_pointer_step(scratch: *mut Scratch, slot: u32) -> bool {
    // SAFETY: by the caller's promise.
    unsafe {
        let s = &mut *scratch;
        if !s.push(s.ip) {
            return s.end(StackEnd::DepthLimit);
        }
        let bp = s.bp;
        if bp < s.sp || bp.wrapping_sub(s.sp) > MAX_FRAME_BYTES || bp & 7 != 0 {
            return s.end(StackEnd::FramePointerEnd);
        }
        let Some(saved) = read_word(scratch, slot, bp) else {
            return s.end(StackEnd::FramePointerEnd);
        };
        let Some(ip) = read_word(scratch, slot, bp.wrapping_add(8)) else {
            return s.end(StackEnd::FramePointerEnd);
        };
        // No program maps its first page, and none the upper half.
        if ip < 4096 || ip >= USER_END {
            return s.end(StackEnd::FramePointerEnd);
        }
        s.sp = bp.wrapping_add(16);
        s.bp = saved;
        s.ip = ip;
        false
    }
}
