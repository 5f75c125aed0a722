//! A process that cleans up when memtrace is killed in a way that it cannot see coming.
//!
//! It shares memtrace's table of descriptors (`CLONE_FILES`) and nothing else: so the probes stay
//! open when memtrace dies, until it has closed them in the way that takes a third of a second
//! instead of minutes. On memtrace's death, by whatever cause, it
//!
//! 1. closes stdin, stdout and stderr, so that a pipeline ends at once,
//! 2. continues every process that `--lossless` has stopped,
//! 3. takes the programs off the events, continues again those stopped meanwhile,
//! 4. closes everything else and removes the tracefs events,
//!
//! and ends. It has its own session and no signal but SIGKILL and SIGSTOP reaches it. When both are
//! killed together (`systemctl kill`, a cgroup's OOM kill with `memory.oom.group`) the kernel
//! closes the probes itself, more slowly, the next memtrace removes the events, and a process that
//! was just then stopped stays stopped until somebody sends it SIGCONT.
//!
//! Start it before other threads exist, so that what it inherits is simple. It also works later:
//! the child only makes system calls and allocates nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attach::will::{Event, MAX_EVENTS, MAX_REMOVAL, NONE, Page};
use super::attach::{DIRECT_DETACH_MAX, LastWill, perf, tracefs};
use crate::target::raw_clone::{Side, pidfd, raw_clone, wait};

/// A running watchdog. Dropping it ends the process; do that after the attachment is gone.
#[derive(Debug)]
pub struct Watchdog {
    will: Arc<LastWill>,
    /// Of memtrace; in the shared table for the child to poll.
    own_pidfd: OwnedFd,
    child: Option<Child>,
}

#[derive(Debug)]
struct Child {
    pid: i32,
    pidfd: OwnedFd,
}

impl Watchdog {
    /// Starts the process. Give [`will`](Self::will) to what it shall take down.
    pub fn start() -> io::Result<Self> {
        let mut watchdog = Watchdog {
            will: Arc::new(LastWill::new()?),
            own_pidfd: pidfd(std::process::id() as i32)?,
            child: None,
        };
        watchdog.restart()?;
        Ok(watchdog)
    }

    /// What the watchdog executes.
    pub fn will(&self) -> Arc<LastWill> {
        Arc::clone(&self.will)
    }

    /// Starts it anew, with the same will: for when it has been killed.
    pub fn restart(&mut self) -> io::Result<()> {
        self.end();
        // SAFETY: no memory is shared but the page of atomics; the child does nothing but `watch`,
        // which only makes system calls and never returns.
        let pid = match unsafe { raw_clone(libc::CLONE_FILES) }? {
            (Side::Child, _) => watch(self.own_pidfd.as_raw_fd(), self.will.page()),
            (Side::Parent(pid), _) => pid,
        };
        match pidfd(pid) {
            Ok(pidfd) => {
                self.child = Some(Child { pid, pidfd });
                Ok(())
            }
            Err(error) => {
                // SAFETY: our own child, not waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                wait(pid, true)?;
                Err(error)
            }
        }
    }

    /// Becomes readable when the watchdog dies; `None` when that is known already.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// False when somebody has killed it: nothing is protected until [`restart`](Self::restart).
    pub fn is_alive(&mut self) -> bool {
        match &self.child {
            Some(child) if matches!(wait(child.pid, false), Ok(None)) => true,
            Some(_) => {
                self.child = None;
                false
            }
            None => false,
        }
    }

    fn end(&mut self) {
        if let Some(child) = self.child.take() {
            let kill = rustix::process::Signal::KILL;
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, kill);
            let _ = wait(child.pid, true);
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.end();
    }
}

/// The child's whole life. From here on: system calls only, no allocation, no panic.
fn watch(memtrace: RawFd, will: &Page) -> ! {
    // SAFETY: plain system calls; the name is NUL-terminated.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"memtrace-watch".as_ptr(), 0, 0, 0);
    }
    let mut poll = libc::pollfd { fd: memtrace, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, a local.
    while unsafe { libc::poll(&mut poll, 1, -1) } <= 0 {}
    // Nobody but this process has the table now.
    execute(will);
    // SAFETY: ends this process.
    unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    unreachable!("exit_group does not return")
}

fn execute(will: &Page) {
    close_range(0, 2);
    let stopped = will.stopped.load(Ordering::Acquire);
    let tracefs_dir = will.tracefs.load(Ordering::Acquire);
    continue_stopped(stopped);

    close(will.holder.load(Ordering::Acquire));
    // Return events were made first and go last.
    for event in will.events.iter().rev() {
        close(event.program.load(Ordering::Acquire));
    }
    continue_stopped(stopped);

    let mut keep = [NONE; MAX_EVENTS + 2];
    if will.processes.load(Ordering::Acquire) as usize > DIRECT_DETACH_MAX {
        for (slot, event) in keep.iter_mut().zip(&will.events) {
            let id = event.id.load(Ordering::Acquire);
            if id != 0 {
                *slot = perf::open_raw(id, perf::Who::Everyone).unwrap_or(NONE);
            }
        }
    }
    let everyone = keep;
    keep[MAX_EVENTS] = stopped;
    keep[MAX_EVENTS + 1] = tracefs_dir;
    close_all_but(&mut keep);
    everyone.iter().for_each(|&fd| close(fd));
    continue_stopped(stopped);
    // Programs that ran when their events were closed have ended by then.
    sleep_ms(tracefs::STRAGGLERS.as_millis() as i64);
    continue_stopped(stopped);

    if tracefs_dir != NONE {
        remove_events(will, tracefs_dir);
    }
}

/// As [`tracefs`] says: not before nobody has the events open, and a little later still (the caller
/// has waited).
fn remove_events(will: &Page, tracefs_dir: RawFd) {
    let token = will.token.load(Ordering::Acquire);
    for _ in 0..200 {
        let fd = open_events(tracefs_dir);
        if fd != NONE && tracefs::try_lock(fd, token).is_ok() {
            for event in &will.events {
                remove_event(tracefs_dir, event);
            }
            return;
        }
        close(fd);
        sleep_ms(10);
    }
}

fn remove_event(tracefs_dir: RawFd, event: &Event) {
    let len = usize::from(event.removal_len.load(Ordering::Acquire)).min(MAX_REMOVAL);
    if len == 0 {
        return;
    }
    let mut line = [0u8; MAX_REMOVAL];
    for (to, from) in line.iter_mut().zip(&event.removal) {
        *to = from.load(Ordering::Relaxed);
    }
    let fd = open_events(tracefs_dir);
    // SAFETY: `len` is at most the buffer's length.
    unsafe { libc::write(fd, line.as_ptr().cast(), len) };
    close(fd);
}

fn open_events(tracefs_dir: RawFd) -> RawFd {
    // SAFETY: a NUL-terminated name.
    unsafe {
        libc::openat(tracefs_dir, c"uprobe_events".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC)
    }
}

/// SIGCONT to everybody who was ever stopped. Nobody is taken out: a stop that comes between the
/// signal and the removal would go unseen.
fn continue_stopped(map: RawFd) {
    const GET_NEXT_KEY: u32 = 4;
    if map == NONE {
        return;
    }
    let mut key;
    let mut next = 0u32;
    let mut previous = std::ptr::null::<u32>();
    // The map changes meanwhile: not for ever.
    for _ in 0..memtrace_common::limits::MAX_PROCESSES {
        // The command's attribute begins: descriptor, key, next key.
        let mut attr = [map as u64, previous as u64, (&raw mut next) as u64, 0];
        if bpf(GET_NEXT_KEY, &mut attr) != 0 {
            return;
        }
        key = next;
        previous = &raw const key;
        // SAFETY: a signal that does nothing to a process that is not stopped.
        unsafe { libc::kill(key as i32, libc::SIGCONT) };
    }
}

fn bpf(command: u32, attr: &mut [u64; 4]) -> libc::c_long {
    // SAFETY: the attribute is readable for the size given and its pointers are to live locals of
    // the map's key size.
    unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of::<[u64; 4]>()) }
}

/// Closes every descriptor but those in `keep`, which is sorted on the way.
fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut next = 0;
    for &fd in keep.iter().filter(|&&fd| fd >= 0) {
        if fd > next {
            close_range(next as u32, fd as u32 - 1);
        }
        next = fd + 1;
    }
    close_range(next as u32, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: memtrace is dead, so nobody uses what is closed here.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

fn close(fd: RawFd) {
    if fd != NONE {
        // SAFETY: as above.
        unsafe { libc::close(fd) };
    }
}

fn sleep_ms(ms: i64) {
    let time = libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    // SAFETY: a valid timespec; every signal is blocked, so the sleep is whole.
    unsafe { libc::nanosleep(&time, std::ptr::null_mut()) };
}

#[cfg(test)]
#[path = "watchdog_tests.rs"]
mod tests;
