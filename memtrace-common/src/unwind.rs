//! Unwind tables: how the kernel side finds a caller without frame pointers (x86-64).
//!
//! A binary's call frame information becomes three flat arrays, the same for every process that
//! maps it:
//!
//! - [`Row`]: from this instruction on, that rule; sorted by address;
//! - [`PageRows`]: for each 1 KiB of text the rows that matter, so that a search takes at most
//!   [`ROW_SEARCH_STEPS`] steps;
//! - [`Rule`]: how to get the caller's registers; shared by all binaries.
//!
//! A process adds a sorted list of [`Mapping`]s and one [`Process`] that points at it.

/// Log2 of the bytes of text that one [`PageRows`] covers.
pub const PAGE_SHIFT: u32 = 10;

/// Bytes of text that one [`PageRows`] covers.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;

/// Steps that find a row among the at most 1 + 1024 of a page.
pub const ROW_SEARCH_STEPS: u32 = 11;

/// Most executable mappings of one process; what lies beyond (the highest addresses) is unknown to
/// the unwinder.
pub const MAX_MAPPINGS_PER_PROCESS: u32 = 8192;

/// Steps that find a mapping among [`MAX_MAPPINGS_PER_PROCESS`].
pub const MAPPING_SEARCH_STEPS: u32 = 14;

/// From an instruction on, up to the next row, a rule applies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Row {
    /// Low 16 bits of the instruction's distance from the table's base.
    pub low: u16,
    /// Index of the [`Rule`].
    pub rule: u16,
}

impl Row {
    /// The row as half a word of the kernel's array.
    pub const fn to_bits(self) -> u32 {
        self.low as u32 | (self.rule as u32) << 16
    }

    /// The row with these bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self { low: bits as u16, rule: (bits >> 16) as u16 }
    }
}

/// The rows of one page of text: `first` is the row in force at the page's first byte (it may have
/// been written many pages before), the rows after it up to and including `last` begin inside the
/// page.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PageRows {
    pub first: u32,
    pub last: u32,
}

impl PageRows {
    /// The entry as one word, which the kernel side reads at once.
    pub const fn to_bits(self) -> u64 {
        self.first as u64 | (self.last as u64) << 32
    }

    /// The entry with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self { first: bits as u32, last: (bits >> 32) as u32 }
    }
}

/// How the canonical frame address (the stack pointer's value in the caller, after the return) is
/// found; a [`Rule::cfa`].
pub mod cfa {
    /// No rule: code without call frame information. All zero, so unset memory means this.
    pub const NONE: u8 = 0;
    /// `rsp + offset`.
    pub const RSP: u8 = 1;
    /// `rbp + offset`.
    pub const RBP: u8 = 2;
    /// A procedure linkage table entry of 16 bytes: `rsp + 8`, and 8 more from byte `offset` of
    /// the entry on.
    pub const PLT: u8 = 3;
    /// The word at `rsp + offset`.
    pub const AT_RSP: u8 = 4;
    /// The word at `rbp + offset`.
    pub const AT_RBP: u8 = 5;
    /// The kernel's signal frame: `rsp`, `rip` and `rbp` are in the `ucontext` at [`super::signal`].
    pub const SIGNAL: u8 = 6;
    /// The outermost frame: the return address is undefined.
    pub const OUTERMOST: u8 = 7;
    /// There is information, and it asks for more than this unwinder can do.
    pub const UNSUPPORTED: u8 = 8;
    /// Executable memory that belongs to no file: code made at run time.
    pub const ANONYMOUS: u8 = 9;
    /// The kernel's `[uprobes]` page: a return address replaced by a return probe.
    pub const TRAMPOLINE: u8 = 10;
    /// The few bytes between two functions. No call lies there, so what looks like a return
    /// address to just behind it is the next function's address, put on a stack by hand as the
    /// bottom of a coroutine (`makecontext`).
    pub const FILLING: u8 = 11;
}

/// Where the caller's `rbp` is; a [`Rule::rbp`].
pub mod rbp {
    /// It is still in `rbp`.
    pub const SAME: u8 = 0;
    /// Saved at the canonical frame address + offset.
    pub const AT_CFA: u8 = 1;
    /// Saved at `rbp` + offset.
    pub const AT_RBP: u8 = 2;
    /// Somewhere this unwinder can't follow. Frames that need it end the stack.
    pub const UNKNOWN: u8 = 3;
}

/// Distances from `rsp`, in a signal handler's return trampoline, to the interrupted registers
/// (the kernel's `struct rt_sigframe` without its return address).
pub mod signal {
    pub const RBP: u64 = 120;
    pub const RSP: u64 = 160;
    pub const RIP: u64 = 168;
}

/// How to get from a frame to its caller. The return address is at the canonical frame address - 8
/// unless [`Rule::cfa`] says otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Rule {
    /// Bytes; see [`cfa`].
    pub cfa_offset: i32,
    /// Bytes; see [`rbp`].
    pub rbp_offset: i16,
    /// A constant of [`cfa`].
    pub cfa: u8,
    /// A constant of [`rbp`].
    pub rbp: u8,
}

impl Rule {
    /// No information.
    pub const NONE: Rule = Rule::of(cfa::NONE);
    /// See [`cfa::ANONYMOUS`].
    pub const ANONYMOUS: Rule = Rule::of(cfa::ANONYMOUS);
    /// See [`cfa::TRAMPOLINE`].
    pub const TRAMPOLINE: Rule = Rule::of(cfa::TRAMPOLINE);
    /// See [`cfa::OUTERMOST`].
    pub const OUTERMOST: Rule = Rule::of(cfa::OUTERMOST);
    /// See [`cfa::UNSUPPORTED`].
    pub const UNSUPPORTED: Rule = Rule::of(cfa::UNSUPPORTED);
    /// See [`cfa::FILLING`].
    pub const FILLING: Rule = Rule::of(cfa::FILLING);
    /// See [`cfa::SIGNAL`].
    pub const SIGNAL: Rule = Rule::of(cfa::SIGNAL);

    const fn of(cfa: u8) -> Rule {
        Rule { cfa_offset: 0, rbp_offset: 0, cfa, rbp: rbp::SAME }
    }

    /// The rule as one word, which the kernel side reads at once.
    pub const fn to_bits(self) -> u64 {
        self.cfa_offset as u32 as u64
            | (self.rbp_offset as u16 as u64) << 32
            | (self.cfa as u64) << 48
            | (self.rbp as u64) << 56
    }

    /// The rule with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            cfa_offset: bits as u32 as i32,
            rbp_offset: (bits >> 32) as u16 as i16,
            cfa: (bits >> 48) as u8,
            rbp: (bits >> 56) as u8,
        }
    }
}

/// Ids of the rules that are in the rule array before any table is.
pub mod rule_id {
    /// [`Rule::NONE`](super::Rule::NONE)
    pub const NONE: u16 = 0;
    /// [`Rule::ANONYMOUS`](super::Rule::ANONYMOUS)
    pub const ANONYMOUS: u16 = 1;
    /// [`Rule::TRAMPOLINE`](super::Rule::TRAMPOLINE)
    pub const TRAMPOLINE: u16 = 2;
    /// [`Rule::UNSUPPORTED`](super::Rule::UNSUPPORTED); also stands for rules that found no room.
    pub const UNSUPPORTED: u16 = 3;
    /// First id of the rules that come from binaries.
    pub const FIRST_FREE: u16 = 4;
}

/// One executable mapping of a process.
///
/// A list that is replaced is rewritten in place only after a pause, and every entry carries its
/// list's generation, so a reader that was overtaken sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Address, in this process, of the table's page 0; may lie outside the mapping.
    pub table_base: u64,
    /// Index of the table's page 0 in the page array.
    pub first_page: u32,
    /// Pages of the table. 0: no table, `rule` holds for the whole mapping.
    pub pages: u32,
    /// [`Process::generation`] of the list.
    pub generation: u32,
    /// A [`rule_id`], where there is no table.
    pub rule: u32,
}

/// What the kernel side knows of a process: where its mapping list is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Process {
    /// Changes with every change of the mappings, unique among all processes (forked children may
    /// share it, with the list, as long as their mappings are their parent's). Never 0.
    pub generation: u32,
    /// Index of the first [`Mapping`].
    pub first: u32,
    /// Number of mappings, sorted by address, not overlapping.
    pub count: u32,
    /// The process itself. The kernel's hash map may hand a reader an entry that has just become
    /// another process'.
    pub pid: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Row>() == 4);
    assert!(size_of::<PageRows>() == 8);
    assert!(size_of::<Rule>() == 8);
    assert!(size_of::<Mapping>() == 40);
    assert!(size_of::<Process>() == 16);
    assert!(offset_of!(Mapping, table_base) == 16);
    assert!(offset_of!(Mapping, first_page) == 24);
    assert!(offset_of!(Mapping, generation) == 32);
    assert!(offset_of!(Process, count) == 8);
    assert!(1 << ROW_SEARCH_STEPS > PAGE_BYTES);
    assert!(1 << MAPPING_SEARCH_STEPS > MAX_MAPPINGS_PER_PROCESS);
};
