//! One thing that happened in a traced process, decoded from a ring-buffer record.
//!
//! Process and thread ids are the ones of the initial PID namespace. Addresses are absolute
//! addresses of the traced process (AVMA). Sizes are requested bytes.

use memtrace_common::{point::Function, stack::StackEnd};

/// Id of a call stack as the kernel side made it: a hash over process, mapping generation and
/// frames. 0 means "no stack".
pub type StackKey = u64;

/// Events in the order in which they happened. See [`memtrace_common::record::Kind`] for what the
/// order guarantees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A block was handed to the program.
    Alloc { pid: u32, tid: u32, address: u64, size: u64, stack: StackKey, function: Function },
    /// An allocation call returned NULL (or, for posix_memalign, an error).
    AllocFailed { pid: u32, tid: u32, size: u64, stack: StackKey, function: Function },
    /// A block is about to be released. Never address 0.
    Free { pid: u32, tid: u32, address: u64 },
    /// A realloc of this block began. Never address 0: realloc(NULL, n) is an Alloc.
    ReallocBegin { pid: u32, tid: u32, address: u64 },
    /// The thread's last realloc returned `address`. Address 0 (NULL): the old block is live again,
    /// unless `size` is 0, where the block was released.
    ReallocEnd { pid: u32, tid: u32, address: u64, size: u64, stack: StackKey, function: Function },
    /// The frames behind a stack id, innermost first; comes before the first event that uses it.
    /// `time_ns` is CLOCK_MONOTONIC when it was walked.
    Stack { pid: u32, stack: StackKey, time_ns: u64, end: StackEnd, addresses: Addresses<'a> },
    /// `pid` forked `child`: the child has copies of all the parent's blocks.
    Fork { pid: u32, child: u32 },
    /// `pid` replaced its program; its old blocks are gone.
    Exec { pid: u32 },
    /// A thread ended; with `last` the whole process.
    Exit { pid: u32, tid: u32, last: bool },
}

/// Little-endian u64 addresses in a byte slice that need not be aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses<'a>(pub(crate) &'a [u8]);

impl<'a> Addresses<'a> {
    /// Wraps raw bytes; a trailing part of fewer than 8 bytes is ignored.
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The addresses, innermost first.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.0.as_chunks::<8>().0.iter().map(|b| u64::from_ne_bytes(*b))
    }
}
