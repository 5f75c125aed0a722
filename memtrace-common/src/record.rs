//! Records in the ring buffer, one `repr(C)` struct a kind.
//!
//! Every record starts with a [`tag`] word: the kind in the top byte, a user address (or 0) in the
//! lower 56 bits. User addresses fit, also with five-level page tables (57-bit address space, user
//! half 56 bits). Records follow each other in the order in which the kernel reserved them, which
//! is the order of events: an allocation is emitted after it returned, a free before it happens.

/// What a record is; the top byte of its first word.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`AllocRecord`]: a block was returned to the caller.
    Alloc = 1,
    /// [`FreeRecord`]: a block is about to be released.
    Free = 2,
    /// [`FreeRecord`]: a realloc is about to move or release this block.
    ReallocBegin = 3,
    /// [`AllocRecord`]: that realloc returned. Address 0 means NULL: the block of the thread's last
    /// `ReallocBegin` is live again, unless the size is 0 (glibc frees and returns NULL).
    ReallocEnd = 4,
    /// [`AllocRecord`] with address 0: an allocation failed.
    AllocFailed = 5,
    /// [`StackHeader`] followed by `frames` addresses (u64), innermost first.
    Stack = 6,
    /// [`LifeRecord`]: process `pid` forked process `other`.
    Fork = 7,
    /// [`LifeRecord`]: process `pid` replaced its program.
    Exec = 8,
    /// [`LifeRecord`]: thread `tid` of process `pid` ended; `other` is 1 if it was the last one.
    Exit = 9,
}

impl Kind {
    /// The kind with this discriminant.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Kind::Alloc,
            2 => Kind::Free,
            3 => Kind::ReallocBegin,
            4 => Kind::ReallocEnd,
            5 => Kind::AllocFailed,
            6 => Kind::Stack,
            7 => Kind::Fork,
            8 => Kind::Exec,
            9 => Kind::Exit,
            _ => return None,
        })
    }
}

/// Bits of the first word that hold the address.
pub const ADDRESS_MASK: u64 = (1 << 56) - 1;

/// Bits of [`AllocRecord::size_function`] that hold the size in bytes; larger sizes (which can only
/// fail) are stored as this value.
pub const SIZE_MASK: u64 = (1 << 56) - 1;

/// The first word of a record.
pub const fn tag(kind: Kind, address: u64) -> u64 {
    (kind as u64) << 56 | (address & ADDRESS_MASK)
}

/// Alloc, ReallocEnd, AllocFailed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocRecord {
    /// See [`tag`]; the address is the new block's.
    pub tag: u64,
    /// Requested size in the lower 56 bits, [`Function`](crate::point::Function) in the top byte.
    pub size_function: u64,
    /// Id of the call stack, sent earlier in a Stack record; 0 when there is none.
    pub stack: u64,
    /// As `bpf_get_current_pid_tgid`: process id in the upper half, thread id in the lower, both in
    /// the initial PID namespace.
    pub pid_tid: u64,
}

/// Free, ReallocBegin.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeRecord {
    /// See [`tag`]; the address is the old block's.
    pub tag: u64,
    /// As in [`AllocRecord`].
    pub pid_tid: u64,
}

/// Head of a Stack record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackHeader {
    /// See [`tag`]; no address.
    pub tag: u64,
    /// The id that later records carry. Never 0.
    pub stack: u64,
    /// As in [`AllocRecord`].
    pub pid_tid: u64,
    /// CLOCK_MONOTONIC when the stack was walked, nanoseconds: tells which mappings its addresses
    /// belong to.
    pub time_ns: u64,
    /// Number of u64 addresses that follow. The first one is the instruction after the call into
    /// the allocator. All are return addresses, but for frames that a signal interrupted, which are
    /// one byte behind the interrupted instruction's first: the instruction that counts is always
    /// the one that holds the byte before.
    pub frames: u16,
    /// A [`StackEnd`](crate::stack::StackEnd) discriminant.
    pub end: u8,
    pub pad: [u8; 5],
}

/// Fork, Exec, Exit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifeRecord {
    /// See [`tag`]; no address.
    pub tag: u64,
    /// As in [`AllocRecord`].
    pub pid_tid: u64,
    /// See [`Kind`].
    pub other: u64,
}

const _: () = {
    assert!(size_of::<AllocRecord>() == 32);
    assert!(size_of::<FreeRecord>() == 16);
    assert!(size_of::<StackHeader>() == 40);
    assert!(size_of::<LifeRecord>() == 24);
    assert!(core::mem::offset_of!(AllocRecord, size_function) == 8);
    assert!(core::mem::offset_of!(AllocRecord, stack) == 16);
    assert!(core::mem::offset_of!(AllocRecord, pid_tid) == 24);
    assert!(core::mem::offset_of!(FreeRecord, pid_tid) == 8);
    assert!(core::mem::offset_of!(StackHeader, stack) == 8);
    assert!(core::mem::offset_of!(StackHeader, frames) == 32);
    assert!(core::mem::offset_of!(StackHeader, end) == 34);
    assert!(core::mem::offset_of!(LifeRecord, other) == 16);
};
