//! `perf_event_open` for tracefs events, and the ioctl that gives an event its BPF program.
//!
//! aya can do neither for events shared by many tasks, so these are raw system calls.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Whom an event counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// One thread and, by inheritance, every thread and process it starts from now on.
    ///
    /// `walk` installs the breakpoints in the thread's address space at once, which costs a walk
    /// over every mapping of the probed files on the machine. Without it they appear with the
    /// next walk, or with the mapping itself (exec, mmap).
    Thread { tid: i32, walk: bool },
    /// One thread alone; breakpoints are installed at once where they are missing.
    ThreadAlone { tid: i32 },
    /// Every process of the machine.
    Everyone,
}

/// `struct perf_event_attr` as of its first version; the kernel takes the rest as zero.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

/// `PERF_ATTR_SIZE_VER0`.
const ATTR_SIZE: u32 = 64;
const _: () = assert!(size_of::<Attr>() == ATTR_SIZE as usize);

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_DUMMY: u64 = 9;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const FLAG_DISABLED: u64 = 1;
const FLAG_INHERIT: u64 = 1 << 1;
const FLAG_ENABLE_ON_EXEC: u64 = 1 << 12;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// `_IOW('$', 8, __u32)`
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

fn open_attr(attr: &Attr, pid: i32, cpu: i32) -> Result<RawFd, i32> {
    // SAFETY: `attr` is a live perf_event_attr of the size it states, and the kernel only reads it.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, attr, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC)
    };
    // SAFETY: errno of this thread is always readable.
    if fd < 0 { Err(unsafe { *libc::__errno_location() }) } else { Ok(fd as RawFd) }
}

/// Opens the tracefs event `id` for `who` and returns the raw descriptor or the negative errno.
///
/// Allocates nothing and touches no lock, so the watchdog may call it too.
pub(crate) fn open_raw(id: u64, who: Who) -> Result<RawFd, i32> {
    let (pid, cpu, flags) = match who {
        // The filter that decides which address spaces get breakpoints skips its walk for events
        // with enable_on_exec (trace_uprobe_filter_add); the event counts all the same.
        Who::Thread { tid, walk: false } => (tid, -1, FLAG_INHERIT | FLAG_ENABLE_ON_EXEC),
        Who::Thread { tid, walk: true } => (tid, -1, FLAG_INHERIT),
        Who::ThreadAlone { tid } => (tid, -1, 0),
        Who::Everyone => (-1, 0, 0),
    };
    let attr =
        Attr { kind: PERF_TYPE_TRACEPOINT, size: ATTR_SIZE, config: id, flags, ..Attr::default() };
    open_attr(&attr, pid, cpu)
}

/// [`open_raw`] with an owner for the descriptor.
pub(crate) fn open(id: u64, who: Who) -> io::Result<OwnedFd> {
    owned(open_raw(id, who))
}

fn owned(fd: Result<RawFd, i32>) -> io::Result<OwnedFd> {
    let fd = fd.map_err(io::Error::from_raw_os_error)?;
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An event that counts nothing and is not inherited.
///
/// It makes a thread's set of events differ from those of the processes it forks. When two tasks
/// have sets that are copies of one another the kernel swaps the sets instead of the events at a
/// switch between them (`perf_event_context_sched_out`), and a task that exits then takes another
/// one's events along: the survivor is seen no more.
pub(crate) fn open_marker(tid: i32) -> io::Result<OwnedFd> {
    let attr = Attr {
        kind: PERF_TYPE_SOFTWARE,
        size: ATTR_SIZE,
        config: PERF_COUNT_SW_DUMMY,
        flags: FLAG_DISABLED,
        ..Attr::default()
    };
    owned(open_attr(&attr, tid, -1))
}

/// Gives the event behind `event` its program. The program belongs to the tracefs event, so it
/// runs for every task for which the event is open, until `event` is closed.
pub(crate) fn set_program(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open for the length of the call; the argument is a plain number.
    let done =
        unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
