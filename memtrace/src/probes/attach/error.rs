//! What can go wrong while attaching, told apart by what the user can do about it.

use std::io;

/// Why breakpoints could not be installed. Nothing is left in the targets or in tracefs when one of
/// these is returned.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Every process that was named has ended.
    #[error("process {pid} has ended")]
    ProcessEnded {
        /// The first of them.
        pid: i32,
    },

    /// A kernel thread has no user memory.
    #[error("process {pid} is a kernel thread, which has no user memory to trace")]
    KernelThread {
        /// The process id that was given.
        pid: i32,
    },

    /// The kernel said EPERM or EACCES.
    #[error("cannot {action}: permission denied (needs {needs}); try with sudo")]
    Permission {
        /// What was tried.
        action: &'static str,
        /// The capability or right that would have been enough.
        needs: &'static str,
    },

    /// There is no tracefs and none could be mounted.
    #[error(
        "tracefs is not mounted and cannot be: {source}; \
         try: mount -t tracefs tracefs /sys/kernel/tracing"
    )]
    NoTracefs {
        /// Why the private mount failed.
        source: io::Error,
    },

    /// tracefs is there but knows no uprobe events.
    #[error("this kernel has no uprobe events (it was built without CONFIG_UPROBE_EVENTS)")]
    NoUprobes,

    /// Another tracer sits on the same instruction with a reference counter; EINVAL. bcc's Python
    /// tools do this by accident: they pass an uninitialised `ref_ctr_offset`.
    #[error(
        "cannot probe {file} at offset {offset:#x}: another tracer holds a probe there that cannot \
         be shared (bcc's Python tools do this); end that tool and try again"
    )]
    HeldByAnotherTracer {
        /// Path of the file, as far as it is known.
        file: String,
        /// Offset in the file, in bytes.
        offset: u64,
    },

    /// The kernel does not accept a breakpoint at this place: the instruction cannot be stepped or
    /// emulated, the offset is outside the file, or the file system cannot hold breakpoints.
    #[error("cannot probe {file} at offset {offset:#x}: the kernel refuses this place: {source}")]
    BadPlace {
        /// Path of the file, as far as it is known.
        file: String,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The kernel's error.
        source: io::Error,
    },

    /// The descriptor limit is too low even after it was raised to the hard limit.
    #[error(
        "cannot attach to {threads} threads: that needs about {needed} file descriptors and the \
         limit is {limit}; raise it (ulimit -Hn) or trace fewer processes"
    )]
    TooManyFiles {
        /// Threads that were to be attached.
        threads: usize,
        /// Descriptors for that.
        needed: usize,
        /// The hard limit.
        limit: u64,
    },

    /// A group without entry points: there would be nothing to see.
    #[error("no probe points were given")]
    NoPoints,

    /// Anything else.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

/// `map_err` helper: an unspecific failure of `action`.
pub(super) fn failed(action: &'static str) -> impl Fn(io::Error) -> AttachError {
    move |source| AttachError::Io { action, source }
}
