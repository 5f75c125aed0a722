//! What userspace fills and the unwinder reads, and the unwinder's own memory.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap},
};
use memtrace_common::{
    limits::{
        MAX_PROCESSES, UNWIND_CACHE, UNWIND_MAPPINGS, UNWIND_PAGES, UNWIND_ROW_WORDS, UNWIND_RULES,
        UNWIND_SCRATCHES,
    },
    unwind::{Mapping, Process},
};

use super::scratch::Scratch;

/// 1: unwind by the tables below; 0: by frame pointers alone. Set before the load.
#[unsafe(no_mangle)]
pub static UNWIND_WITH_TABLES: u32 = 1;

/// Two rows a word, the row with the even number in the lower half.
#[map]
pub static UNWIND_ROWS: Array<u64> = Array::with_max_entries(UNWIND_ROW_WORDS, BPF_F_MMAPABLE);

/// `PageRows` as words.
#[map]
pub static UNWIND_PAGE_ROWS: Array<u64> = Array::with_max_entries(UNWIND_PAGES, BPF_F_MMAPABLE);

/// `Rule`s as words.
#[map]
pub static UNWIND_RULE_BITS: Array<u64> = Array::with_max_entries(UNWIND_RULES, BPF_F_MMAPABLE);

/// The mapping lists of all processes.
#[map]
pub static UNWIND_MAPPING_LISTS: Array<Mapping> =
    Array::with_max_entries(UNWIND_MAPPINGS, BPF_F_MMAPABLE);

/// From process id (initial namespace) to its mapping list.
#[map]
pub static UNWIND_PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// From (address, generation) to rule: 48 bits of hash, 16 bits of rule id. One word, so that it
/// can't be torn.
#[map]
pub static UNWIND_RULE_CACHE: Array<u64> = Array::with_max_entries(UNWIND_CACHE, 0);

#[map]
pub static UNWIND_SCRATCH: Array<Scratch> = Array::with_max_entries(UNWIND_SCRATCHES, 0);

/// Whether to unwind by tables.
#[inline(always)]
pub fn with_tables() -> bool {
    // SAFETY: a static of this program; volatile since the loader sets it.
    unsafe { (&raw const UNWIND_WITH_TABLES).read_volatile() != 0 }
}
