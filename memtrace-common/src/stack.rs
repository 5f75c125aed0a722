//! How a user stack ended.

/// Why unwinding stopped. Anything but [`Complete`](StackEnd::Complete) is shown to the user as an
/// outermost `[truncated]` frame, with the reason counted.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StackEnd {
    /// The outermost frame (process entry, thread start) was reached.
    Complete = 0,
    /// [`MAX_FRAMES`](crate::limits::MAX_FRAMES) frames were recorded and there were more.
    DepthLimit = 1,
    /// No unwind row for the address and no usable frame pointer.
    NoUnwindInfo = 2,
    /// User memory that a rule needed could not be read.
    UnreadableMemory = 3,
    /// The address lies in no executable mapping that is known.
    NoMapping = 4,
    /// A rule that the kernel-side unwinder doesn't support (a DWARF expression).
    UnsupportedRule = 5,
    /// Frame pointers only: the chain ended, which can't be told from a function that keeps none.
    FramePointerEnd = 6,
    /// The return address had been replaced by a return probe: the thread is inside a second
    /// probed function.
    ProbeTrampoline = 7,
    /// The caller's frame would lie below its callee's: the stack is damaged or was switched in a
    /// way that its call frame information doesn't tell.
    StackNotGrowing = 8,
    /// The process' mappings were not known to the kernel side at that moment (just started, just
    /// exec'ed, or more processes than fit).
    UnknownProcess = 9,
    /// No working memory was free in the kernel: too many threads were unwinding at once.
    Busy = 10,
}

impl StackEnd {
    /// Every reason, in discriminant order.
    pub const ALL: [StackEnd; 11] = [
        StackEnd::Complete,
        StackEnd::DepthLimit,
        StackEnd::NoUnwindInfo,
        StackEnd::UnreadableMemory,
        StackEnd::NoMapping,
        StackEnd::UnsupportedRule,
        StackEnd::FramePointerEnd,
        StackEnd::ProbeTrampoline,
        StackEnd::StackNotGrowing,
        StackEnd::UnknownProcess,
        StackEnd::Busy,
    ];

    /// The reason with this discriminant.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        if (raw as usize) < Self::ALL.len() { Some(Self::ALL[raw as usize]) } else { None }
    }
}
