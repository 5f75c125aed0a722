//! From an address to its rule.

use memtrace_common::{
    limits::UNWIND_CACHE,
    unwind::{
        MAPPING_SEARCH_STEPS, Mapping, PAGE_BYTES, PAGE_SHIFT, PageRows, ROW_SEARCH_STEPS, Row,
        rule_id,
    },
};

use super::{
    maps::{UNWIND_MAPPING_LISTS, UNWIND_PAGE_ROWS, UNWIND_ROWS, UNWIND_RULE_CACHE},
    scratch::Scratch,
};

/// [`rule_for`]'s answer for an address in no executable mapping that is known.
pub const NO_MAPPING: u64 = 1 << 32;

/// The id of the rule for the instruction at `pc`, or [`NO_MAPPING`].
///
/// # Safety
/// `scratch` is this thread's and its mapping list is set.
#[inline(always)]
pub unsafe fn rule_for(scratch: *mut Scratch, pc: u64) -> u64 {
    // SAFETY: by the caller's promise.
    let (generation, first, count) =
        unsafe { ((*scratch).generation, (*scratch).first, (*scratch).count) };
    let spread = u64::from(generation).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let key = (pc ^ spread).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let key = key ^ key >> 29;
    let tag = key & !0xffff | 1 << 16;
    let slot = (key ^ key >> 40) as u32 & (UNWIND_CACHE - 1);
    let cached = UNWIND_RULE_CACHE.get_ptr_mut(slot);
    if let Some(cached) = cached {
        // SAFETY: a live map value; one word, so it is whole.
        let word = unsafe { cached.read_volatile() };
        if word & !0xffff == tag {
            return word & 0xffff;
        }
    }
    let found = unwind_find_rule(pc, first, count, generation);
    if found != NO_MAPPING
        && let Some(cached) = cached
    {
        // SAFETY: as above.
        unsafe { cached.write_volatile(tag | found & 0xffff) };
    }
    found
}

/// Searches the mapping list and the rows. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unwind_find_rule(pc: u64, first: u32, count: u32, generation: u32) -> u64 {
    // The last mapping that starts at or below pc.
    let mut low = first;
    let mut high = first.wrapping_add(count);
    for _ in 0..MAPPING_SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = low + ((high - low) >> 1);
        let Some(mapping) = mapping(middle) else { return NO_MAPPING };
        // SAFETY: a live map value.
        if unsafe { (*mapping).start } <= pc {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if low == first {
        return NO_MAPPING;
    }
    let Some(mapping) = mapping(low.wrapping_sub(1)) else { return NO_MAPPING };
    // SAFETY: a live map value. Userspace may be rewriting it for another list: the generation is
    // read before and after the rest (the compiler keeps volatile accesses in order, and so does
    // the processor).
    let (end, start, base, first_page, pages, rule) = unsafe {
        if (&raw const (*mapping).generation).read_volatile() != generation {
            return NO_MAPPING;
        }
        let copy = (
            (&raw const (*mapping).end).read_volatile(),
            (&raw const (*mapping).start).read_volatile(),
            (&raw const (*mapping).table_base).read_volatile(),
            (&raw const (*mapping).first_page).read_volatile(),
            (&raw const (*mapping).pages).read_volatile(),
            (&raw const (*mapping).rule).read_volatile(),
        );
        if (&raw const (*mapping).generation).read_volatile() != generation {
            return NO_MAPPING;
        }
        copy
    };
    if pc < start || pc >= end {
        return NO_MAPPING;
    }
    if pages == 0 {
        return u64::from(rule as u16);
    }
    let offset = pc.wrapping_sub(base);
    let page = offset >> PAGE_SHIFT;
    if page >= u64::from(pages) {
        return u64::from(rule_id::NONE);
    }
    let Some(bits) = UNWIND_PAGE_ROWS.get_ptr(first_page.wrapping_add(page as u32)) else {
        return u64::from(rule_id::NONE);
    };
    // SAFETY: a live map value.
    let rows = PageRows::from_bits(unsafe { bits.read_volatile() });
    let at = (offset & (PAGE_BYTES - 1)) as u32;
    // The last row that begins at or below pc; the first one does.
    let mut low = rows.first;
    let mut high = rows.last;
    for _ in 0..ROW_SEARCH_STEPS {
        if low >= high {
            break;
        }
        let middle = low + ((high - low + 1) >> 1);
        if u32::from(row(middle).low) & (PAGE_BYTES as u32 - 1) <= at {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    u64::from(row(low).rule)
}

#[inline(always)]
fn mapping(index: u32) -> Option<*const Mapping> {
    UNWIND_MAPPING_LISTS.get_ptr(index)
}

#[inline(always)]
fn row(index: u32) -> Row {
    match UNWIND_ROWS.get_ptr(index >> 1) {
        // SAFETY: a live map value.
        Some(word) => {
            Row::from_bits((unsafe { word.read_volatile() } >> ((index & 1) * 32)) as u32)
        }
        None => Row { low: 0, rule: rule_id::NONE },
    }
}
