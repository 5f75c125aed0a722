//! What has to be done if memtrace dies: a page shared with the watchdog.
//!
//! Plain numbers and bytes, written by memtrace while it lives and read by the watchdog afterwards,
//! in another address space (but the same descriptor table).

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Events of one attachment: an entry and a return event a group.
pub(crate) const MAX_EVENTS: usize = 2 * memtrace_common::limits::POINT_TABLES;

/// Longest line that removes an event: `-:memtrace_PID_TOKEN/NAME`.
pub(crate) const MAX_REMOVAL: usize = 63;

/// "No descriptor".
pub(crate) const NONE: i32 = -1;

#[derive(Debug)]
#[repr(C)]
pub(crate) struct Page {
    /// The BPF hash map of processes stopped by `--lossless` (key u32 tgid), or [`NONE`].
    pub(crate) stopped: AtomicI32,
    /// The holder's pipe.
    pub(crate) holder: AtomicI32,
    /// tracefs' root directory.
    pub(crate) tracefs: AtomicI32,
    /// Processes that are attached or anchored.
    pub(crate) processes: AtomicU32,
    /// The lock byte of the events.
    pub(crate) token: AtomicU64,
    pub(crate) events: [Event; MAX_EVENTS],
}

#[derive(Debug)]
#[repr(C)]
pub(crate) struct Event {
    /// For `perf_event_open`; 0 for none.
    pub(crate) id: AtomicU64,
    /// The perf event that carries the program, or [`NONE`].
    pub(crate) program: AtomicI32,
    pub(crate) removal_len: AtomicU8,
    pub(crate) removal: [AtomicU8; MAX_REMOVAL],
}

/// Owner of the shared page. Cheap to share by `Arc` between the attachment and the watchdog.
#[derive(Debug)]
pub struct LastWill {
    page: NonNull<Page>,
}

// SAFETY: the page holds atomics only and lives until the owner is dropped.
unsafe impl Send for LastWill {}
// SAFETY: as above.
unsafe impl Sync for LastWill {}

impl LastWill {
    /// An empty will: nothing to close, nobody to continue.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Page>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(address.cast::<Page>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let will = LastWill { page };
        will.set_stopped_map(None);
        will.clear();
        Ok(will)
    }

    pub(crate) fn page(&self) -> &Page {
        // SAFETY: the mapping is page-aligned, large enough, zeroed at first (valid for atomics)
        // and lives as long as `self`.
        unsafe { self.page.as_ref() }
    }

    /// Tells the watchdog which map lists the processes that `--lossless` has stopped: a BPF hash
    /// map with a u32 key, the thread group id; whoever is in it gets SIGCONT. The descriptor must
    /// stay open for as long as anybody can be stopped.
    pub fn set_stopped_map(&self, map: Option<RawFd>) {
        self.page().stopped.store(map.unwrap_or(NONE), Ordering::Release);
    }

    /// Forgets all that concerns probes.
    pub(crate) fn clear(&self) {
        let page = self.page();
        for event in &page.events {
            event.id.store(0, Ordering::Release);
            event.program.store(NONE, Ordering::Release);
            event.removal_len.store(0, Ordering::Release);
        }
        page.holder.store(NONE, Ordering::Release);
        page.tracefs.store(NONE, Ordering::Release);
        page.processes.store(0, Ordering::Release);
    }
}

impl Event {
    /// A line too long for the page is left out: the event stays until the next sweep.
    pub(crate) fn set_removal(&self, line: &str) {
        if line.len() > MAX_REMOVAL {
            return;
        }
        for (to, from) in self.removal.iter().zip(line.bytes()) {
            to.store(from, Ordering::Relaxed);
        }
        self.removal_len.store(line.len() as u8, Ordering::Release);
    }
}

impl Drop for LastWill {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which no reference is left.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
    }
}
