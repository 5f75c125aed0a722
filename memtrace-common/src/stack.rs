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
}

impl StackEnd {
    /// Every reason, in discriminant order.
    pub const ALL: [StackEnd; 7] = [
        StackEnd::Complete,
        StackEnd::DepthLimit,
        StackEnd::NoUnwindInfo,
        StackEnd::UnreadableMemory,
        StackEnd::NoMapping,
        StackEnd::UnsupportedRule,
        StackEnd::FramePointerEnd,
    ];

    /// The reason with this discriminant.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        if (raw as usize) < Self::ALL.len() { Some(Self::ALL[raw as usize]) } else { None }
    }
}
