//! Probe points: which allocator function sits behind an instruction address.

/// An allocator function that memtrace understands. The discriminant travels in records.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Function {
    Malloc = 1,
    Calloc = 2,
    Realloc = 3,
    Reallocarray = 4,
    PosixMemalign = 5,
    AlignedAlloc = 6,
    Memalign = 7,
    Valloc = 8,
    Pvalloc = 9,
    Free = 10,
    Cfree = 11,
    FreeSized = 12,
    FreeAlignedSized = 13,
}

impl Function {
    /// Every function, in the order in which they are looked for.
    pub const ALL: [Function; 13] = [
        Function::Malloc,
        Function::Calloc,
        Function::Realloc,
        Function::Reallocarray,
        Function::PosixMemalign,
        Function::AlignedAlloc,
        Function::Memalign,
        Function::Valloc,
        Function::Pvalloc,
        Function::Free,
        Function::Cfree,
        Function::FreeSized,
        Function::FreeAlignedSized,
    ];

    /// The C name.
    pub const fn name(self) -> &'static str {
        match self {
            Function::Malloc => "malloc",
            Function::Calloc => "calloc",
            Function::Realloc => "realloc",
            Function::Reallocarray => "reallocarray",
            Function::PosixMemalign => "posix_memalign",
            Function::AlignedAlloc => "aligned_alloc",
            Function::Memalign => "memalign",
            Function::Valloc => "valloc",
            Function::Pvalloc => "pvalloc",
            Function::Free => "free",
            Function::Cfree => "cfree",
            Function::FreeSized => "free_sized",
            Function::FreeAlignedSized => "free_aligned_sized",
        }
    }

    /// The function with this discriminant. A match and no table look-up, which the BPF verifier
    /// could not follow.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Function::Malloc,
            2 => Function::Calloc,
            3 => Function::Realloc,
            4 => Function::Reallocarray,
            5 => Function::PosixMemalign,
            6 => Function::AlignedAlloc,
            7 => Function::Memalign,
            8 => Function::Valloc,
            9 => Function::Pvalloc,
            10 => Function::Free,
            11 => Function::Cfree,
            12 => Function::FreeSized,
            13 => Function::FreeAlignedSized,
            _ => return None,
        })
    }

    /// True for the functions that only release memory and so need no return probe.
    pub const fn is_free(self) -> bool {
        matches!(
            self,
            Function::Free | Function::Cfree | Function::FreeSized | Function::FreeAlignedSized
        )
    }
}

/// What the entry program looks up by `ip & 0xfff`. All zero means "no point here".
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Point {
    /// A [`Function`] discriminant, 0 for none.
    pub function: u8,
    /// Bytes pushed on the stack between the function's entry and this instruction, so that the
    /// return address is at `rsp + pushed`.
    pub pushed: u8,
}

const _: () = assert!(size_of::<Point>() == 2);
